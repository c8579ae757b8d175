"""Who attacks: somebody with pictures of other people, the embedder, and time to train.

What was trained on clean embeddings is kept in the cache, for it serves against every profile; what was trained against
one profile is kept there too, under the profile's digest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from lab.data.embedders import Encoder
from lab.data.image_store import digest_of
from lab.data.images import FaceImages
from lab.data.pixels import embedded
from lab.data.verification import Rows
from lab.defence.decoders import DECODERS, InversionOptions, build, rebuilt, train_decoder
from lab.defence.training import Checkpoint, descend, device, save_whole

_WIDTH: Final = 512
_RATE: Final = 2e-3
_DECAY: Final = 1e-4


class Denoiser(nn.Module):
    """Templates (n, d) to embeddings (n, d), unit rows: a linear map, and two layers that mend it."""

    def __init__(self, dim: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.straight = nn.Linear(dim, dim)
        self.bent = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.leave = nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, templates: Tensor) -> Tensor:
        """(n, d) to (n, d) unit rows."""
        scaled = templates * templates.shape[1] ** 0.5
        return functional.normalize(self.straight(scaled) + self.leave(self.bent(scaled)), dim=1, eps=1e-9)


def train_denoiser(templates: Rows, embeddings: Rows, *, epochs: int = 16, batch: int = 256, seed: int = 0) -> Denoiser:
    """Learns from pairs of pictures that are the attacker's own.

    Its start is the least-squares map, so that it is never worse than that one by much.

    Args:
        templates: (n, d) float32, what pictures became.
        embeddings: (n, d) float32, unit rows, of the same pictures.
        epochs: passes over the pairs.
        batch: pairs a step.
        seed: of weights and order.
    """
    torch.manual_seed(seed)
    dim = templates.shape[1]
    network = Denoiser(dim)
    x, y = templates.astype(np.float64) * dim**0.5, embeddings.astype(np.float64)
    ridge = 1e-3 * len(x) * np.eye(dim)
    straight = np.linalg.solve(x.T @ x + ridge, x.T @ y).T
    with torch.no_grad():
        network.straight.weight.copy_(torch.from_numpy(straight))
        network.straight.bias.zero_()
    where = device()
    network.to(where).train()
    seen, wanted = (torch.from_numpy(np.ascontiguousarray(rows)).to(where) for rows in (templates, embeddings))
    steps = max(1, epochs * len(x) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps + 1, pct_start=0.1)
    random = np.random.default_rng(seed)
    for _ in range(steps):
        rows = torch.from_numpy(random.integers(0, len(x), batch)).to(where)
        loss = 1 - (network(seen[rows]) * wanted[rows]).sum(dim=1).mean()
        descend(optimizer, loss)
        schedule.step()
    return network.cpu().eval().requires_grad_(False)


@torch.no_grad()
def denoised(denoiser: nn.Module, templates: Rows) -> Rows:
    """(n, d) float32 to (n, d) float32, unit rows."""
    return np.asarray(denoiser(torch.from_numpy(np.ascontiguousarray(templates))).numpy())


def train_classifier(
    rows: Rows, labels: NDArray[np.int64], classes: int, *, epochs: int = 12, batch: int = 256, seed: int = 0
) -> nn.Module:
    """Learns an attribute from vectors.

    Args:
        rows: (n, d) float32.
        labels: (n,) 0 to classes - 1.
        classes: how many.
        epochs: passes.
        batch: rows a step.
        seed: of weights and order.
    """
    torch.manual_seed(seed)
    dim = rows.shape[1]
    network = nn.Sequential(nn.Linear(dim, 128), nn.SiLU(), nn.Dropout(0.3), nn.Linear(128, classes)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-2)
    x, y = torch.from_numpy(np.ascontiguousarray(rows)) * dim**0.5, torch.from_numpy(labels)
    random = np.random.default_rng(seed)
    for _ in range(max(100, epochs * len(rows) // batch)):
        chosen = torch.from_numpy(random.integers(0, len(rows), batch))
        loss = functional.cross_entropy(network(x[chosen]), y[chosen])
        descend(optimizer, loss)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def scores(classifier: nn.Module, rows: Rows) -> NDArray[np.float64]:
    """(n, classes) float64 probabilities."""
    x = torch.from_numpy(np.ascontiguousarray(rows)) * rows.shape[1] ** 0.5
    return np.asarray(torch.softmax(classifier(x), dim=1).double().numpy())


_FORMAT: Final = 1
_COMPARED: Final = 256
# A round of further training that gains less of cosine than this is the last one.
_GAIN: Final = 0.005


@dataclass(frozen=True, slots=True)
class Effort:
    """How much an attacker spends.

    Attributes:
        pictures: of the attacker's own, at most; None: all there are.
        families: of decoders, learned on clean embeddings.
        decoders: their training.
        round_steps: steps of a round of further training of the best family.
        rounds: at most; fewer where a round gains nothing.
        adapted_steps: steps of the best family's training on protected templates, behind a denoiser.
        denoiser_epochs: passes of a denoiser.
        attacked: people at most; None: all who test.
        curve: people at most for each point of the frontier.
        inverted: people at most for inversion by gradients.
        inversion_steps: of it.
        restarts: of it.
        stolen: templates of the stolen gallery.
        alignment_rounds: of optimal transport; adversarial alignment takes 25 steps for each.
        replayed: rebuilt faces that are shown to a running edge; 0: none.
    """

    pictures: int | None = None
    families: tuple[str, ...] = tuple(DECODERS)
    decoders: InversionOptions = field(default_factory=lambda: InversionOptions(epochs=1.6))
    round_steps: int = 400
    rounds: int = 3
    adapted_steps: int = 400
    denoiser_epochs: int = 16
    attacked: int | None = 400
    curve: int = 200
    inverted: int = 32
    inversion_steps: int = 120
    restarts: int = 2
    stolen: int = 10_000
    alignment_rounds: int = 60
    replayed: int = 40


FULL: Final = Effort()
QUICK: Final = Effort(
    pictures=2000,
    families=("transposed",),
    decoders=InversionOptions(epochs=3.0, identity_steps=50),
    round_steps=20,
    rounds=1,
    adapted_steps=20,
    attacked=60,
    curve=60,
    inverted=6,
    inversion_steps=50,
    restarts=1,
    stolen=3_000,
    alignment_rounds=20,
    replayed=10,
)


@dataclass(slots=True)
class Attacker:
    """Trains and keeps what attacks need.

    Attributes:
        pictures: of other people than those who are attacked.
        unit: (n, d) float32, unit rows: their clean embeddings.
        encoder: the embedder.
        embedder: its differentiable copy.
        effort: how much is spent.
        cache: folder for what was trained.
        seed: of everything.
    """

    pictures: FaceImages
    unit: Rows
    encoder: Encoder
    embedder: nn.Module
    effort: Effort
    cache: Path
    seed: int = 0
    _lead: str | None = None

    def decoder(self, family: str) -> nn.Module:
        """A decoder of a family, trained on clean embeddings."""
        options = dataclasses.replace(self.effort.decoders, seed=self.seed)

        def make(kept: Checkpoint) -> nn.Module:
            return self._trained(family, self.unit, options, kept)[0]

        return self._kept(family, [family, dataclasses.asdict(options)], lambda: build(family, self._dim), make)

    def lead(self) -> str:
        """The family whose faces are nearest to the people on the attacker's own pictures."""
        if self._lead is None:
            rows = np.linspace(0, len(self.unit) - 1, min(_COMPARED, len(self.unit))).astype(int)
            nearest = {family: self._cosine(self.decoder(family), rows) for family in self.effort.families}
            self._lead = max(nearest, key=lambda family: nearest[family])
        return self._lead

    def best(self) -> nn.Module:
        """The decoder of the leading family, trained on until that gains nothing."""
        family = self.lead()
        options = self._further(self.effort.round_steps)

        def make(kept: Checkpoint) -> nn.Module:
            decoder, before = self.decoder(family), -np.inf
            for number in range(self.effort.rounds):
                seeded = dataclasses.replace(options, seed=self.seed + number + 1)
                place = dataclasses.replace(kept, path=kept.path / f"round {number}")
                decoder, history = self._trained(family, self.unit, seeded, place, decoder.requires_grad_(True))
                reached = history[-1]["cosine"]
                if reached < before + _GAIN:
                    break
                before = reached
            return decoder

        parts = [family, dataclasses.asdict(options), dataclasses.asdict(self.effort.decoders), self.effort.rounds]
        return self._kept(f"{family}-on", ["on", *parts], lambda: build(family, self._dim), make)

    def denoiser(self, templates: Rows) -> Denoiser:
        """From templates of the attacker's own pictures to their embeddings: (n, d), a row a picture."""
        return train_denoiser(templates, self.unit, epochs=self.effort.denoiser_epochs, seed=self.seed)

    def adapted(self, templates: Rows, what: str) -> nn.Module:
        """The best decoder behind a denoiser, both trained on protected templates.

        Args:
            templates: (n, d) float32, of the attacker's own pictures.
            what: names how these were made, so that what is kept is not mistaken for another.
        """
        family = self.lead()
        options = self._further(self.effort.adapted_steps)

        def make(kept: Checkpoint) -> nn.Module:
            start = nn.Sequential(self.denoiser(templates), self.best()).requires_grad_(True)
            return self._trained(family, templates, options, kept, start)[0]

        def empty() -> nn.Module:
            return nn.Sequential(Denoiser(self._dim), build(family, self._dim))

        parts = [what, family, dataclasses.asdict(options), dataclasses.asdict(self.effort)]
        return self._kept(f"{family}-adapted", ["adapted", *parts], empty, make)

    def average(self) -> NDArray[np.float32]:
        """The mean of the attacker's own pictures: (3, 112, 112) float32 in 0..1."""
        every = max(1, len(self.pictures) // 2000)
        few = self.pictures.pixels[::every].astype(np.float32).mean(axis=0) / 255
        return np.ascontiguousarray(few.transpose(2, 0, 1))

    @property
    def _dim(self) -> int:
        return int(self.unit.shape[1])

    def _further(self, steps: int) -> InversionOptions:
        return dataclasses.replace(self.effort.decoders, epochs=0, identity_steps=steps, seed=self.seed + 1)

    def _trained(
        self, family: str, templates: Rows, options: InversionOptions, kept: Checkpoint, start: nn.Module | None = None
    ) -> tuple[nn.Module, list[dict[str, float]]]:
        pixels = self.pictures.pixels
        return train_decoder(family, templates, pixels, self.unit, self.embedder, options, kept, start)

    def _cosine(self, decoder: nn.Module, rows: NDArray[np.int64]) -> float:
        faces = torch.from_numpy(rebuilt(decoder, self.unit[rows]))
        with torch.no_grad():
            found = [embedded(self.embedder, faces[at : at + 16]) for at in range(0, len(faces), 16)]
        return float((torch.cat(found) * torch.from_numpy(self.unit[rows])).sum(dim=1).mean())

    def _kept(
        self, name: str, parts: list[object], empty: Callable[[], nn.Module], make: Callable[[Checkpoint], nn.Module]
    ) -> nn.Module:
        about = [self.encoder.sha256, self.encoder.preprocessing, self.pictures.digest, self.seed]
        key = digest_of("attacker", _FORMAT, *about, *parts)
        path = self.cache / "attackers" / f"{name}-{key[:32]}.pt"
        if path.exists():
            module = empty()
            try:
                module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except Exception:  # torch's errors on a damaged file share no base class
                Console(stderr=True).print(f"{path} is damaged; it is made again.")
            else:
                return module.eval().requires_grad_(False)
        checkpoints = self.cache / "attackers" / "checkpoints" / key[:32]
        module = make(Checkpoint(checkpoints, key))
        save_whole(path, module.state_dict())
        for kept in sorted(checkpoints.rglob("*"), reverse=True):
            kept.rmdir() if kept.is_dir() else kept.unlink()
        return module.eval().requires_grad_(False)
