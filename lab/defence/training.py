"""A training that can be killed: seeded, checkpointed, resumed where it stopped, with rate and remaining time."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from lab.data.image_store import written_whole
from shared.errors import SetupError

FORMAT = 1
CHECKPOINT_EVERY_S = 60.0


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_whole(path: Path, value: object) -> None:
    """A file of torch's, at its place whole or not at all.

    Raises:
        SetupError: the folder cannot be written, or is full.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)  # into a full disk it would end in an error that does not say so
    with written_whole(path) as file:
        file.write(buffer.getbuffer())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training keeps its state.

    Attributes:
        path: of the file, or of the folder for the files of several stages.
        fingerprint: of everything the training depends on; a checkpoint made under another one is not resumed.
    """

    path: Path
    fingerprint: str = ""

    def load(self) -> dict[str, Any] | None:
        """The state last saved, or None.

        Raises:
            SetupError: the file is damaged, or belongs to another training.
        """
        if not self.path.exists():
            return None
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            fits = kept["format"] == FORMAT and kept["fingerprint"] == self.fingerprint
            state = dict(kept["state"])
        except Exception:
            raise SetupError(f"The checkpoint {self.path} is damaged; remove it to train anew.") from None
        if not fits:
            raise self.foreign()
        return state

    def foreign(self) -> SetupError:
        """The error for a checkpoint of another training."""
        return SetupError(
            f"The checkpoint {self.path} belongs to a training on other data or with other options; "
            "remove it, or name another folder."
        )

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state, whole or not at all.

        Raises:
            SetupError: the folder cannot be written, or is full.
        """
        save_whole(self.path, {"format": FORMAT, "fingerprint": self.fingerprint, "state": state})


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Takes one step of an optimizer down the gradient of a loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def minimize(
    name: str,
    network: nn.Module,
    loss_of: Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]],
    steps: int,
    rate: float,
    *,
    decay: float,
    beta: float = 0.999,
    rise: float = 0.3,
    seed: int,
    checkpoint: Checkpoint,
) -> list[dict[str, float]]:
    """Trains a network with AdamW, from the start or from its checkpoint.

    Gradients have a length of one at most, and the rate rises and falls once. Every step draws from a generator of its
    own (seed, step): a resumed training sees what an unbroken one would have.

    Args:
        name: shown in the progress.
        network: changed in place.
        loss_of: takes the number of the step and its random numbers, gives the loss and figures to show.
        steps: how many.
        rate: the largest.
        decay: of weights.
        beta: of squared gradients.
        rise: share of the steps in which the rate rises.
        seed: of the draws.
        checkpoint: where the state is kept; the last state stays there.

    Returns:
        the means of the figures over each twentieth of the training.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay, betas=(0.9, beta))
    # Two steps at least: a rise of one step only, torch divides by zero in.
    rise = max(rise, 2 / (steps + 1))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=rise)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    state = checkpoint.load()
    done = 0
    counted: dict[str, int] = {}
    history: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    if state is not None:
        try:
            done, history = int(state["done"]), list(state["history"])
            counted, sums = dict(state.get("counted") or {}), dict(state.get("sums", {}))
            for key, part in parts.items():
                part.load_state_dict(state["parts"][key])
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise checkpoint.foreign() from None
    every = max(1, steps // 20)
    began = saved = time.monotonic()

    def keep(done: int) -> None:
        states = {key: part.state_dict() for key, part in parts.items()}
        checkpoint.save({"done": done, "history": history, "counted": counted, "sums": sums, "parts": states})

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress:
        task = progress.add_task(name, total=steps, completed=done, figures="")
        for number in range(done, steps):
            torch.manual_seed(seed * 1_000_003 + number)
            loss, figures = loss_of(number, np.random.default_rng([seed, number]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            pace = (number + 1 - done) / max(time.monotonic() - began, 1e-9)
            for key, value in figures.items():
                sums[key] = sums.get(key, 0.0) + value
                counted[key] = counted.get(key, 0) + 1
            if (number + 1) % every == 0 or number + 1 == steps:
                history.append({"step": number + 1, **{key: value / counted[key] for key, value in sums.items()}})
                sums, counted = {}, {}
                if not progress.console.is_terminal:
                    _say(progress.console, name, pace, steps - number - 1, history[-1])
            shown = " ".join(f"{key} {value:.3f}" for key, value in figures.items())
            progress.update(task, advance=1, figures=f"{pace:.2f}/s {shown}")
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                keep(number + 1)
                saved = time.monotonic()
    if done < steps:
        keep(steps)
    return history


def _say(console: Console, name: str, pace: float, left: int, figures: dict[str, float]) -> None:
    """Prints one line of a log, where nobody looks at a bar."""
    shown = " ".join(f"{key} {value:.4g}" for key, value in figures.items())
    console.print(f"{name}: {pace:.2f} steps/s, {left / pace / 60:.1f} min to go: {shown}", soft_wrap=True)
