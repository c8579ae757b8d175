"""What every attack is given: the attacker, the people attacked, their templates, and who judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lab.attacks.attackers import Attacker
from lab.attacks.inversion import rebuilt
from lab.attacks.reconstruction import Judge, Looks, Outcome, judged
from lab.attacks.target import Target
from lab.data.splits import TEST, Labelled
from lab.evaluation.trade_off import Cases, as_json

Rows = NDArray[np.float32]
TARGET: Final = "target"

# What an attacker knows.
CLEAN: Final = "learned on unprotected embeddings"
OTHER_KEYS: Final = "learned on templates of other keys"
KEY: Final = "attacker with the key"
# What is attacked.
PLAIN: Final = "unprotected embeddings"
WIRE: Final = "templates as stored by the cloud"
OPENED: Final = "templates, the seal undone"


@dataclass(slots=True)
class Scene:
    """Attacker, people and judges.

    Attributes:
        attacker: who attacks.
        labelled: people; those who test are attacked.
        target: the profile.
        tau: cosine of the unchanged threshold.
        chosen: the pictures attacked, one a person.
        judges: by name, the target embedder first; their rows are the cases'.
        looks: looks at rebuilt faces.
        wire: (n, d) templates of all labelled faces, in the gallery that is attacked.
        opened: the same with the seal undone.
        seed: of draws.
    """

    attacker: Attacker
    labelled: Labelled
    target: Target
    tau: float
    chosen: Cases
    judges: dict[str, Judge]
    looks: Looks | None
    wire: Rows
    opened: Rows
    seed: int = 0

    @property
    def clean(self) -> Rows:
        """(n, d) unprotected embeddings of all labelled faces."""
        return self.labelled.unit

    def narrowed(self, most: int, *, panel: bool = False) -> Scene:
        """Fewer people; unless the panel is wanted, judged by the target embedder alone and looked at by nobody."""
        few = Cases(self.chosen.attacked[:most], self.chosen.other[:most])
        judges = {
            name: dataclasses.replace(judge, same=judge.same[:most], other=judge.other[:most])
            for name, judge in self.judges.items()
            if panel or name == TARGET
        }
        return dataclasses.replace(self, chosen=few, judges=judges, looks=self.looks if panel else None)

    def repeated(self, times: int) -> Scene:
        """Every case so many times over, one time after the other."""
        cases = Cases(np.tile(self.chosen.attacked, times), np.tile(self.chosen.other, times))
        judges = {
            name: dataclasses.replace(
                judge, same=np.tile(judge.same, (times, 1)), other=np.tile(judge.other, (times, 1))
            )
            for name, judge in self.judges.items()
        }
        return dataclasses.replace(self, chosen=cases, judges=judges)

    def of_cases(self, rows: Rows) -> Rows:
        """Of rows of all labelled faces, those of the pictures attacked."""
        return np.ascontiguousarray(rows[self.chosen.attacked])

    def score(self, decoder: nn.Module, templates: Rows) -> Outcome:
        """What a decoder makes of the cases' rows of (n, d) templates of all labelled faces."""
        return self.judged(rebuilt(decoder, self.of_cases(templates)))

    def judged(self, faces: NDArray[np.float32]) -> Outcome:
        """Judges faces (k, 3, s, s) float32 in 0..1, one a case."""
        rows = self.chosen.attacked
        return judged(faces, self.labelled.images.pixels[rows], self.labelled.people[rows], self.judges, self.looks)

    def strangers(self) -> NDArray[np.int64]:
        """For each case another person's picture: (k,) rows."""
        return np.roll(self.chosen.attacked, len(self.chosen.attacked) // 2)

    def test_people(self, pictures: int) -> dict[int, NDArray[np.int64]]:
        """People who test and have so many pictures or more, with their rows."""
        rows = self.labelled.rows(TEST)
        order = rows[np.argsort(self.labelled.people[rows], kind="stable")]
        people, starts = np.unique(self.labelled.people[order], return_index=True)
        parts = np.split(order, starts[1:])
        return {int(one): part for one, part in zip(people, parts, strict=True) if len(part) >= pictures}


def row(attack: str, knows: str, on: str, outcome: Outcome, **more: Any) -> dict[str, Any]:
    """A row of the report."""
    return {"attack": attack, "knows": knows, "on": on, **more, **as_json(outcome)}


def surfaces(scene: Scene) -> Mapping[str, Rows]:
    """What there is to attack; with no seal, what crosses the wire is open."""
    found = {PLAIN: scene.clean, WIRE: scene.wire}
    if scene.target.seals:
        found[OPENED] = scene.opened
    return found
