"""All that decides a profile, in one file beside its training: with the same data it gives the same profile again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_service.models.files import write_whole
from edge_service.protection.profiles.document import NAME_PATTERN
from lab.defence.decoders import DECODERS, InversionOptions
from lab.defence.perturbation import PerturbationOptions
from shared.errors import Conflict, SetupError

FILE: Final = "recipe.json"
Family = Annotated[str, StringConstraints(pattern=f"^({'|'.join(DECODERS)})$")]


class Recipe(BaseModel):
    """How a profile is made.

    Attributes:
        version: of this form.
        name: of the profile.
        summary: one sentence for the people who choose it.
        embedder: name of a served embedder, or path of one's own ONNX file.
        tau: cosine threshold of the system that the profile is for; it does not change.
        sides: ``both`` for erase + perturb of probes and gallery, ``probe`` for perturb of probes alone.
        seal: whether templates are sealed on top.
        images: source of the faces that attackers learn on.
        people: source of labelled faces; parts of it fit, calibrate and test.
        more_people: source of further labelled people with many pictures each, who help to fit and never test.
        terms: on what terms these pictures may be used, for the model card.
        families: attackers in the loop.
        held_out: an attacker that only tests.
        rounds: how often attackers are retrained on what the network emits.
        phi_max: degrees, the largest angle to train for; calibration may allow less.
        slope: of phi(x) over the margin to the nearest of the cohort, in use and not in training: 1 spends at most all
            of that margin. None: every face may use phi_max; where both sides are perturbed alike, no margin is spent.
        fnmr_rise: how far the upper bound of FNMR may rise over the clean system's in calibration, a share of 1.
        fmr_rise: the same of FMR.
        alpha: share of decisions that may flip under the certified budget.
        attackers: training of decoders.
        perturbation: training of the network; its sides are this recipe's.
        seed: of everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    summary: str
    embedder: str
    tau: float = Field(gt=0, lt=1)
    sides: Literal["both", "probe"] = "both"
    seal: bool = True
    images: str
    people: str
    more_people: str | None = None
    terms: str = ""
    families: tuple[Family, ...] = ("transposed", "upsampling")
    held_out: Family = "attentive"
    rounds: int = Field(default=0, ge=0, le=5)
    phi_max: float = Field(default=40.0, gt=0, le=90)
    slope: float | None = Field(default=None, gt=0)
    fnmr_rise: float = 0.01
    fmr_rise: float = 3e-4
    alpha: float = 0.01
    attackers: InversionOptions = InversionOptions()
    perturbation: PerturbationOptions = PerturbationOptions()
    seed: int = 0

    def write(self, run: Path) -> None:
        """Keeps the recipe in a folder that has none, or this one.

        Raises:
            Conflict: the folder holds another recipe.
            SetupError: the folder cannot be made, or its recipe is damaged.
        """
        self.check(run)
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise SetupError(f"{run} cannot be a folder ({problem.strerror}); name another one with --out.") from None
        write_whole(run / FILE, (self.model_dump_json(indent=2) + "\n").encode())

    def check(self, run: Path) -> None:
        """Whether a folder has no recipe, or this one.

        Raises:
            Conflict: it holds another one.
            SetupError: it is no folder, or its recipe is damaged.
        """
        if run.exists() and not run.is_dir():
            raise SetupError(f"{run} is not a folder; name another one with --out.")
        if (run / FILE).exists() and read_recipe(run) != self:
            raise Conflict(
                f"{run} holds a training with other options or data; name another folder with --out, or remove it."
            )


def read_recipe(run: Path) -> Recipe:
    """The recipe of a training.

    Raises:
        SetupError: there is none, or it is damaged.
    """
    try:
        return Recipe.model_validate_json((run / FILE).read_bytes())
    except OSError:
        raise SetupError(f"{run} holds no training; start one with patronus lab train --out {run}.") from None
    except ValidationError:
        raise SetupError(f"{run / FILE} is damaged, or was written by another version.") from None
