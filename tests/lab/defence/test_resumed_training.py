"""A training that was killed goes on where it stopped, and ends as if nothing had happened."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lab.data.pixels import embedded
from lab.defence import training
from lab.defence.decoders import InversionOptions, train_decoder
from lab.defence.training import Checkpoint, minimize
from shared.errors import SetupError

STEPS = 45  # a figure every second step, and a last one alone


class Killed(Exception):
    """The process ends here."""


@pytest.fixture(autouse=True)
def _kept_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", -1.0)


class Small:
    """A network with dropout: every step draws from both sources of random numbers."""

    def __init__(self, weights: int = 0, width: int = 8) -> None:
        torch.manual_seed(weights)
        self.network = nn.Sequential(nn.Linear(6, width), nn.Dropout(0.3), nn.Linear(width, 1))

    def train(
        self, path: Path, *, dies_at: int | None = None, fingerprint: str = "mine", error: type = Killed
    ) -> list[dict[str, float]]:
        def loss_of(number: int, random: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
            if number == dies_at:
                raise error
            rows = torch.from_numpy(random.normal(size=(16, 6)).astype(np.float32))
            loss = ((self.network(rows) - rows.sum(dim=1, keepdim=True)) ** 2).mean()
            return loss, {"loss": loss.item()}

        kept = Checkpoint(path, fingerprint)
        return minimize("small", self.network, loss_of, STEPS, 0.01, decay=0.01, seed=3, checkpoint=kept)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("deaths", [(0,), (1,), (17,), (44,), (2, 3, 30, 44)])
@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_a_killed_training_ends_as_an_unbroken_one(
    deaths: tuple[int, ...], error: type[BaseException], tmp_path: Path
) -> None:
    unbroken = Small()
    history = unbroken.train(tmp_path / "unbroken.pt")
    for weights, at in enumerate(deaths):
        with pytest.raises(error):
            Small(weights).train(tmp_path / "broken.pt", dies_at=at, error=error)
    # Other weights at the start: what counts is the checkpoint; but before the first one they are the seed's.
    last = Small(weights=9 if max(deaths) else 0)
    assert last.train(tmp_path / "broken.pt") == history
    assert [seen["step"] for seen in history] == [*range(2, STEPS, 2), STEPS]
    assert _same(last.network.state_dict(), unbroken.network.state_dict())
    ends = [torch.load(tmp_path / name)["state"]["parts"] for name in ("broken.pt", "unbroken.pt")]
    assert set(ends[0]) == {"network", "optimizer", "schedule"}
    for part in ends[0]:
        assert _same(ends[0][part], ends[1][part]), part
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.pt", "unbroken.pt"]


def test_a_finished_training_does_nothing_more(tmp_path: Path) -> None:
    first = Small()
    history = first.train(tmp_path / "it.pt")
    before = (tmp_path / "it.pt").read_bytes()
    again = Small(weights=5)
    assert again.train(tmp_path / "it.pt", dies_at=0) == history
    assert _same(again.network.state_dict(), first.network.state_dict())
    assert (tmp_path / "it.pt").read_bytes() == before


def test_the_figures_are_means_and_the_training_works(tmp_path: Path) -> None:
    history = Small().train(tmp_path / "it.pt")
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


# Checkpoints of others, and damaged ones


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    return data[:300] + bytes(255 - value for value in data[300:2000]) + data[2000:]


@pytest.mark.parametrize(
    "damage", [_cut, _flipped, lambda _: b"", lambda _: b"not a checkpoint", lambda data: data[1:]]
)
def test_a_damaged_checkpoint_is_refused_and_left_alone(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    Small().train(path)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(SetupError, match=r"it\.pt is damaged; remove it to train anew\.$"):
        Small().train(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1, "fingerprint": "mine"},
        {"format": 1, "fingerprint": "mine", "state": 5},
        {"fingerprint": "mine", "state": {}},
        [1, 2],
    ],
)
def test_a_checkpoint_without_its_parts_is_damaged(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "it.pt")
    with pytest.raises(SetupError, match=r"it\.pt is damaged"):
        Small().train(tmp_path / "it.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1, "fingerprint": "mine", "state": {}},
        {"format": 1, "fingerprint": "mine", "state": {"done": 3, "history": [], "parts": {}}},
        {"format": 2, "fingerprint": "mine", "state": {"done": 3}},
        {"format": 1, "fingerprint": "another's", "state": {"done": 3}},
    ],
)
def test_another_trainings_checkpoint_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "it.pt")
    with pytest.raises(SetupError, match=r"belongs to a training on other data or with other options; remove it, or"):
        Small().train(tmp_path / "it.pt")


def test_a_checkpoint_of_a_network_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Small(width=12).train(tmp_path / "it.pt", dies_at=4)
    with pytest.raises(SetupError, match="belongs to a training on other data or with other options"):
        Small().train(tmp_path / "it.pt")


def test_a_checkpoint_made_before_under_another_fingerprint_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    Small().train(path, fingerprint="one")
    before = path.read_bytes()
    with pytest.raises(SetupError, match="belongs to a training on other data"):
        Small().train(path, fingerprint="other")
    assert path.read_bytes() == before


class _Trap:
    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.told),)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "it.pt").write_bytes(pickle.dumps({"format": 1, "state": _Trap(tmp_path / "ran")}))
    with pytest.raises(SetupError, match="is damaged"):
        Small().train(tmp_path / "it.pt")
    torch.save({"format": 1, "state": _Trap(tmp_path / "ran")}, tmp_path / "it.pt")
    with pytest.raises(SetupError, match="is damaged"):
        Small().train(tmp_path / "it.pt")
    assert not (tmp_path / "ran").exists()


def test_a_state_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "it.pt")
    checkpoint.save({"done": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save({"done": 2, "more": lambda: None})
    assert checkpoint.load() == {"done": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "it.pt"]


def test_a_full_disk_is_told_and_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "it.pt")
    checkpoint.save({"done": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SetupError, match=r"cannot hold it\.pt \(No space left on device\); make room there"):
        checkpoint.save({"done": 2})
    monkeypatch.undo()
    assert checkpoint.load() == {"done": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "it.pt"]


# An attacker's training


class _Twin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.onto = nn.Parameter(torch.randn(48, 8, generator=torch.Generator().manual_seed(0)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x / 128 - 1, 4).flatten(1) @ self.onto


FACES: NDArray[np.uint8] = np.random.default_rng(2).integers(0, 256, (20, 112, 112, 3), dtype=np.uint8)
CLEAN = embedded(_Twin(), torch.from_numpy(FACES.transpose(0, 3, 1, 2) / np.float32(255))).numpy()
OPTIONS = InversionOptions(epochs=1.2, batch=4, identity_steps=3, identity_batch=4)


class _Dying(np.ndarray):
    """Templates whose reader is killed at a certain time that it asks for some."""

    def __getitem__(self, rows: Any) -> Any:
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == self.dies_at:
            raise Killed
        return np.asarray(self)[rows]


def _attacker(
    folder: Path, dies_at: int | None = None, fingerprint: str = ""
) -> tuple[nn.Module, list[dict[str, float]]]:
    templates = CLEAN.view(_Dying)
    templates.dies_at = dies_at
    return train_decoder("transposed", templates, FACES, CLEAN, _Twin(), OPTIONS, Checkpoint(folder, fingerprint))


def test_an_attacker_killed_in_either_stage_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, history = _attacker(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    # 6 steps on pixels, 3 on identity: dead in the fourth, then in the second on identity, then done.
    with pytest.raises(Killed):
        _attacker(broken, dies_at=4)
    with pytest.raises(Killed):
        _attacker(broken, dies_at=3 + 2)
    assert sorted(path.name for path in broken.iterdir()) == ["transposed-identity.pt", "transposed-pixels.pt"]
    last, same_history = _attacker(broken)
    assert same_history == history
    assert _same(last.state_dict(), unbroken.state_dict())


def test_an_attackers_checkpoint_on_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        _attacker(tmp_path, dies_at=2)
    with pytest.raises(SetupError, match="belongs to a training on other data"):
        _attacker(tmp_path, fingerprint="other faces")
