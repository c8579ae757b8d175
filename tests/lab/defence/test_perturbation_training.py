"""The perturbation learns what it is asked for, and the same again from the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lab.defence import training
from lab.defence.network import NetworkShape, PatronusNetwork
from lab.defence.perturbation import Material, PerturbationOptions, train_perturbation
from lab.defence.protection import protect
from lab.defence.training import Checkpoint
from shared.errors import SetupError

Rows = NDArray[np.float32]
DIM, PEOPLE, EACH, TAU = 16, 80, 3, 0.6
WARM_UP = PerturbationOptions(steps=1, warm_up=80, anchors=64, rate=3e-3, rebuilt=0, partial=0.0)
ATTACKED = PerturbationOptions(steps=40, warm_up=0, anchors=64, rate=3e-3, rebuilt=16, floor=0.0, partial=0.0)


class Killed(Exception):
    """The process ends here."""


def _unit(seed: int) -> Rows:
    random = np.random.default_rng([seed, 2])
    own = np.repeat(random.standard_normal((PEOPLE, DIM)), EACH, axis=0)
    rows = own + 0.3 * random.standard_normal(own.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _material() -> Material:
    unit = torch.from_numpy(_unit(0))
    pairs = torch.stack([unit[0::EACH], unit[1::EACH]], dim=1)
    return Material(unit, _pictures(unit), pairs, torch.eye(DIM) * 0.07)


class Rebuilder(nn.Module):
    """An attacker that knows how pictures were made of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(5)
        self.onto = nn.Parameter(torch.randn(DIM, 3 * 16, generator=random) * 2, requires_grad=False)
        self.asked = 0
        self.dies_at = 0

    def forward(self, templates: Tensor) -> Tensor:
        self.asked += 1
        if self.asked == self.dies_at:
            raise Killed
        tiles = torch.sigmoid(templates @ self.onto).reshape(-1, 3, 4, 4)
        return functional.interpolate(tiles, size=(32, 32), mode="bilinear", align_corners=False)


class TorchEmbedder(nn.Module):
    """The embedder whose embeddings the attacker inverts, near enough."""

    def __init__(self) -> None:
        super().__init__()
        self.back = nn.Parameter(torch.linalg.pinv(Rebuilder().onto), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.logit((functional.adaptive_avg_pool2d(x, 4) / 255).clamp(0.02, 0.98)).flatten(1) @ self.back


def _pictures(unit: Tensor) -> Tensor:
    return (Rebuilder()(unit) * 255).round().to(torch.uint8)


def _network(seed: int = 0, *, rotates: bool = False) -> PatronusNetwork:
    torch.manual_seed(seed)
    network = PatronusNetwork(NetworkShape(DIM, seed_dim=4, width=32, erases=False, rotates=rotates, cohort=2))
    for buffer, value in ((network.margin_from, 1.0), (network.slope, 1e4), (network.phi_max, 0.6)):
        buffer.fill_(value)
    return network


def _trained(
    options: PerturbationOptions, seed: int = 0, *, rotates: bool = False
) -> tuple[PatronusNetwork, list[dict[str, float]]]:
    network = _network(seed, rotates=rotates)
    with TemporaryDirectory() as folder:
        kept = Checkpoint(Path(folder))
        history = train_perturbation(network, TAU, _material(), (), replace(options, seed=seed), kept, TorchEmbedder())
    return network, history


def _loss(options: PerturbationOptions, seen: dict[str, float]) -> float:
    """What a step without attackers minimises, from its figures."""
    alike = max(0.0, seen["alike"] - (1 - options.own * (1 - TAU))) / (1 - TAU)
    return (
        options.score * seen["score"]
        + options.flip * seen["flips"]
        + options.away * seen["away"]
        + options.diversity * alike
    )


def _moved(network: PatronusNetwork) -> float:
    """How far protection moves the cosines of people it was not trained on, on average."""
    rows = _unit(1)
    found = protect(network, rows)
    assert np.rad2deg(found.angles.mean()) > 15
    return float(np.abs(found.templates @ found.templates.T - rows @ rows.T).mean())


@pytest.mark.parametrize("sides", ["both", "probe"])
def test_training_lowers_its_loss(sides: str) -> None:
    options = replace(WARM_UP, sides=sides)  # type: ignore[arg-type]
    _, history = _trained(options)
    warm_up = history[: history.index(next(seen for seen in history if seen["step"] == WARM_UP.warm_up)) + 1]
    first, last = (np.mean([_loss(options, seen) for seen in part]) for part in (warm_up[:2], warm_up[-4:]))
    assert last < 0.8 * first


@pytest.mark.slow(reason="trains once more")
def test_scores_are_kept_where_that_has_a_weight() -> None:
    kept, _ = _trained(WARM_UP)
    free, _ = _trained(replace(WARM_UP, score=0.0, flip=0.0))
    assert _moved(kept) < 0.7 * _moved(free)


def test_where_both_sides_turn_alike_scores_move_less() -> None:
    free, _ = _trained(replace(WARM_UP, warm_up=20))
    alike, _ = _trained(replace(WARM_UP, warm_up=20), rotates=True)
    assert _moved(alike) < 0.5 * _moved(free)


def test_one_seed_gives_one_network_and_another_seed_another() -> None:
    options = replace(WARM_UP, warm_up=8)
    first, history = _trained(options)
    again, same_history = _trained(options)
    other, _ = _trained(options, seed=1)
    rows = _unit(1)
    templates = protect(first, rows).templates
    assert history == same_history
    assert np.array_equal(templates, protect(again, rows).templates)
    apart = np.linalg.norm(templates - protect(other, rows).templates, axis=1)
    assert np.median(apart) > 0.05
    assert np.linalg.norm(protect(other, rows).templates, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_seed_of_a_template_turns_it_elsewhere() -> None:
    network, history = _trained(WARM_UP)
    rows = _unit(1)
    one, two = (protect(network, rows, seed=seed).templates for seed in (0, 1))
    assert np.median(np.linalg.norm(one - two, axis=1)) > 0.01
    assert history[-1]["alike"] < 1


@pytest.mark.slow(reason="trains with an attacker in the loop")
@pytest.mark.parametrize("what", ["ssim", "seen"])
def test_an_attacker_in_the_loop_rebuilds_less(what: str, tmp_path: Path) -> None:
    material, attacker = _material(), Rebuilder()
    network = _network()
    # What is asked for here is privacy alone.
    options = replace(ATTACKED, score=0.0, flip=0.0, away=0.0, **{"identity" if what == "ssim" else "pixels": 0.0})
    kept = Checkpoint(tmp_path)
    history = train_perturbation(network, TAU, material, [attacker], options, kept, TorchEmbedder())
    first, last = (np.mean([seen[what] for seen in part]) for part in (history[:2], history[-4:]))
    assert last < first - 0.02
    assert not network.training
    assert torch.equal(attacker.onto, Rebuilder().onto)


def test_a_killed_training_ends_as_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", -1.0)
    options = replace(ATTACKED, steps=9, warm_up=5, partial=0.2)
    embedder = TorchEmbedder()

    def trained(folder: Path, dies_at: int, weights: int) -> tuple[PatronusNetwork, list[dict[str, float]]]:
        network, attacker = _network(weights), Rebuilder()
        material = _material()
        attacker.dies_at = dies_at
        kept = Checkpoint(folder, "mine")
        return network, train_perturbation(network, TAU, material, [attacker], options, kept, embedder)

    broken = tmp_path / "broken"
    unbroken, history = trained(tmp_path / "unbroken", 0, weights=0)
    for weights, dies_at in ((0, 1), (1, 3)):
        with pytest.raises(Killed):
            trained(broken, dies_at, weights)
    last, same_history = trained(broken, 0, weights=2)
    assert same_history == history
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, last.state_dict()[name]), name
    other, kept = replace(options, rate=1e-4), Checkpoint(broken, "mine")
    with pytest.raises(SetupError, match="belongs to a training on other data or with other options"):
        train_perturbation(_network(), TAU, _material(), [Rebuilder()], other, kept, embedder)
