"""A training from pictures to profile, in a folder of its own; every part resumes where it stopped.

::

    recipe.json        what was asked for
    fit.npz            what was fitted and not trained
    attackers/         decoders trained on clean embeddings, and their checkpoints
    network.pt         the perturbation
    calibration.json   budgets
    evaluation.json    figures
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from edge_service.models.files import write_whole
from lab.data.embedders import open_encoder
from lab.data.image_store import written_whole
from lab.data.matching import genuine_pairs
from lab.data.splits import FIT, Material, gather
from lab.data.torch_embedder import load_torch_embedder
from lab.defence.calibration import Calibration, calibrate
from lab.defence.decoders import build, shrunk, train_decoder
from lab.defence.network import PatronusNetwork
from lab.defence.perturbation import Material as Seen
from lab.defence.perturbation import train_perturbation
from lab.defence.protection import protect
from lab.defence.recipe import Recipe, read_recipe
from lab.defence.statistics import Fitted, Way, fit, limited_by_cohort, network_of
from lab.defence.training import Checkpoint, save_whole
from shared.errors import SetupError

COHORT: Final = 32
_LOOP_SIDE: Final = 64
_MOST_PAIRS: Final = 8


@dataclass(slots=True)
class Run:
    """A training under way or done.

    Attributes:
        folder: of the training.
        cache: for faces and embeddings, shared by all trainings.
        recipe: what was asked for.
    """

    folder: Path
    cache: Path
    recipe: Recipe

    @classmethod
    def open(cls, folder: Path, cache: Path) -> Run:
        """A training that was begun.

        Raises:
            SetupError: there is none in this folder.
        """
        return cls(folder, cache, read_recipe(folder))

    def material(self) -> Material:
        """All faces, embedded."""
        recipe = self.recipe
        more = None if recipe.more_people is None else Path(recipe.more_people)
        return gather(Path(recipe.images), Path(recipe.people), open_encoder(recipe.embedder), self.cache, more=more)

    def fitted(self, material: Material) -> Fitted:
        """What is fitted and not trained; from the folder where it is."""
        path = self.folder / "fit.npz"
        if not path.exists():
            found = fit(material, self.recipe.tau, erases=self.recipe.sides == "both", cohort=COHORT, seed=0)
            _save_fit(path, found)
        return _load_fit(path)

    def train(self) -> None:
        """Everything up to the network; what is there already is not made again."""
        material = self.material()
        fitted = self.fitted(material)
        embedder = load_torch_embedder(material.encoder.path, cache=self.cache)
        attackers = [self.attacker(family, material, embedder) for family in self.recipe.families]
        if not (self.folder / "network.pt").exists():
            self._train_network(material, fitted, attackers, embedder)
        self.attacker(self.recipe.held_out, material, embedder)

    def _train_network(
        self, material: Material, fitted: Fitted, attackers: list[nn.Module], embedder: nn.Module
    ) -> None:
        recipe = self.recipe
        network = network_of(fitted, np.deg2rad(recipe.phi_max), recipe.seed)
        unit, pixels, rows = material.learned, material.pictures.pixels, material.labelled.rows(FIT)
        pairs = genuine_pairs(material.labelled.people[rows], most=_MOST_PAIRS, seed=recipe.seed)
        if recipe.images != recipe.people:
            # Those who teach score preservation are protected too: else the network would learn to tell the two sources
            # apart, to perturb the one and spare the other.
            unit = np.concatenate([unit, material.labelled.unit[rows]])
            pixels = np.concatenate([pixels, material.labelled.images.pixels[rows]])
        seen = Seen(
            unit=torch.from_numpy(np.array(unit)),
            pictures=shrunk(pixels, _LOOP_SIDE),
            pairs=torch.from_numpy(material.labelled.unit[rows[pairs]]),
            within=torch.from_numpy(fitted.within),
        )
        options = dataclasses.replace(recipe.perturbation, sides=recipe.sides, scale=fitted.scale, seed=recipe.seed)
        for number in range(recipe.rounds + 1):
            kept = self._checkpoints(f"round {number}")
            train_perturbation(network, recipe.tau, seen, attackers, options, kept, embedder)
            if number < recipe.rounds:
                attackers.append(self._retrained(number, network, material, embedder))
        save_whole(self.folder / "network.pt", network.state_dict())

    def attacker(self, family: str, material: Material, embedder: nn.Module) -> nn.Module:
        """A decoder trained on clean embeddings; from the folder where it is."""
        path = self.folder / "attackers" / f"{family}.pt"
        unit, pixels = material.learned, material.pictures.pixels
        if not path.exists():
            options = dataclasses.replace(self.recipe.attackers, seed=self.recipe.seed)
            kept = Checkpoint(self.folder / "checkpoints", self._print(material.pictures.digest))
            decoder, _ = train_decoder(family, unit, pixels, unit, embedder, options, kept)
            save_whole(path, decoder.state_dict())
        decoder = build(family, unit.shape[1])
        load_into(decoder, path)
        return decoder.eval().requires_grad_(False)

    def _retrained(self, number: int, network: PatronusNetwork, material: Material, embedder: nn.Module) -> nn.Module:
        """One of the attackers, gone on learning from what the network emits now."""
        family = self.recipe.families[number % len(self.recipe.families)]
        unit, pixels = material.learned, material.pictures.pixels
        emitted = protect(network, unit, seed=number).templates
        options = dataclasses.replace(self.recipe.attackers, epochs=0, seed=self.recipe.seed + number + 1)
        kept, start = self._checkpoints(f"retrained {number}"), self.attacker(family, material, embedder)
        start.requires_grad_(True)
        return train_decoder(family, emitted, pixels, unit, embedder, options, kept, start)[0]

    def network(self, fitted: Fitted, *, calibrated: bool = True) -> PatronusNetwork:
        """The trained network, with the budget of the calibration where there is one and it is wanted.

        Raises:
            SetupError: it was not trained yet.
        """
        self.check_trained()
        recipe = self.recipe
        network = network_of(fitted, np.deg2rad(recipe.phi_max), recipe.seed)
        load_into(network, self.folder / "network.pt")
        if recipe.slope is not None:
            limited_by_cohort(network, recipe.tau, recipe.slope)
        calibration = self.read("calibration.json") if calibrated else None
        if calibration is not None:
            network.phi_max.fill_(np.deg2rad(calibration["phi_max"]))
        return network.eval().requires_grad_(False)

    def check_trained(self) -> None:
        """Before work that needs the network.

        Raises:
            SetupError: it was not trained yet.
        """
        if not (self.folder / "network.pt").exists():
            raise SetupError(f"{self.folder} holds no trained network yet; run patronus lab train --out {self.folder}.")

    def calibrate(self) -> Calibration:
        """Finds the budgets and keeps them."""
        self.check_trained()
        material = self.material()
        network = self.network(self.fitted(material), calibrated=False)
        found = calibrate(network, material.labelled, self.recipe)
        # Figures of an earlier budget are no figures of this one.
        (self.folder / "evaluation.json").unlink(missing_ok=True)
        self.write("calibration.json", dataclasses.asdict(found))
        return found

    def read(self, name: str) -> dict[str, Any] | None:
        """A result, or None where it is not there yet."""
        path = self.folder / name
        try:
            return dict(json.loads(path.read_bytes())) if path.exists() else None
        except (ValueError, TypeError, RecursionError):
            raise _damaged(path) from None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Keeps a result, whole or not at all."""
        write_whole(self.folder / name, (json.dumps(value, indent=1) + "\n").encode())

    def _checkpoints(self, name: str) -> Checkpoint:
        return Checkpoint(self.folder / "checkpoints" / name, self._print(name))

    def _print(self, *parts: str) -> str:
        return hashlib.sha256("\0".join([self.recipe.model_dump_json(), *parts]).encode()).hexdigest()


def _save_fit(path: Path, found: Fitted) -> None:
    eraser = np.empty((0, len(found.shape))) if found.eraser is None else found.eraser
    with written_whole(path) as file:
        kept = dataclasses.asdict(found)
        np.savez(file, **(kept | kept.pop("way") | {"eraser": eraser}))


def _load_fit(path: Path) -> Fitted:
    try:
        # Opened here: of a damaged file NumPy leaves its own open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            eraser = kept["eraser"] if len(kept["eraser"]) else None
            way = Way(int(kept["directions"]), float(kept["wiener"]), bool(kept["keeps_mean"]))
            return Fitted(eraser, kept["cohort"], kept["shape"], kept["within"], float(kept["scale"]), way)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        raise _damaged(path) from None


def load_into(module: nn.Module, path: Path) -> None:
    """Loads the weights of a module.

    Raises:
        SetupError: the file is missing, damaged, or of another module.
    """
    try:
        module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # torch's errors on a damaged file share no base class
        raise _damaged(path) from None


def _damaged(path: Path) -> SetupError:
    return SetupError(f"{path} is damaged, or was written by another version; remove it, and it is made again.")
