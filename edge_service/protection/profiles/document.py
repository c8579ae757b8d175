"""The content of ``profile.json``; strict: anything unknown is refused."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from edge_service.protection.profiles.curves import Cost, refuse_repeated
from edge_service.protection.profiles.score import ScoreCalibration
from shared.contract import MAX_DIM
from shared.names import HexDigest
from shared.strict_types import One
from shared.wire.common import Threshold
from shared.wire.curves import MeasuredCurve

VERSION: Final = 1
ANY_EMBEDDER: Final = "any"
# What protects, in the order of application.
Layer = Literal["erase", "perturb", "seal"]
NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]{0,63}$"
_Length = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    """A part of the document: strict, without unknown members, and frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SealStep(_Strict):
    """Seal by the secret rotation of the gallery's epoch."""

    kind: Literal["seal"] = "seal"


class PatronusStep(_Strict):
    """Erase and perturb by a trained network: an ONNX file beside the document.

    The graph's inputs: ``x`` (n, dim), ``seed`` (n, seed_dim) standard normal, ``phi_limit`` (n,) radians, ``seal``
    (dim, dim) orthogonal; its outputs: ``template`` (n, dim) unit rows, ``angle`` (n,) radians. All float32.
    """

    kind: Literal["patronus"] = "patronus"
    file: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\.onnx$")] = "patronus.onnx"
    sha256: HexDigest
    dim: int = Field(ge=2, le=MAX_DIM)
    seed_dim: int = Field(ge=1, le=MAX_DIM)
    layers: Annotated[list[Literal["erase", "perturb"]], Field(min_length=1)] = Field(
        description="what the graph does, in this order"
    )
    geometry: Literal["sphere"] = Field(default="sphere", description="embeddings are compared by their angle")
    input_norm: Annotated[list[_Length], Field(min_length=2, max_length=2)] | None = Field(
        description="shortest and longest raw embedding that is plausible; null: only rows of length 1 are"
    )
    phi_max: float = Field(ge=0, le=math.pi / 2, description="radians; the graph never perturbs by more")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.layers not in (["erase"], ["perturb"], ["erase", "perturb"]):
            raise ValueError("layers are erase, perturb, or both in this order")
        if (self.phi_max > 0) != ("perturb" in self.layers):
            raise ValueError("phi_max is over 0 where the graph perturbs, and 0 where it does not")
        if self.input_norm is not None and self.input_norm[0] > self.input_norm[1]:
            raise ValueError("input_norm is the shortest length, then the longest")
        return self


Step = Annotated[PatronusStep | SealStep, Field(discriminator="kind")]


def _absent(value: object) -> bool:
    """Whether a member is left out of what is written: documents without it keep their digest."""
    return value is None


class ProfileDocument(_Strict):
    """A profile: steps and measured figures. The edge runs the steps and stores the rest."""

    version: One = VERSION
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    summary: str
    embedder: str = Field(min_length=1, description="the embedder that the profile was made for, or `any`")
    embedder_sha256: HexDigest | None = Field(default=None, description="of that embedder's converted file")
    # In this order. The seal is the last step: after it, nothing is known of the embedding space.
    steps: Annotated[list[Step], Field(min_length=1, max_length=2)]
    threshold: Threshold | None = Field(default=None, description="tau that it was calibrated at, and the FMR there")
    budgets: dict[str, JsonValue] | None = Field(default=None, description="angles that calibration allowed, and why")
    cohort_sha256: HexDigest | None = Field(default=None, description="of the fixed cohort that limits are taken from")
    figures: dict[str, JsonValue] | None = Field(default=None, description="what was measured")
    score: ScoreCalibration | None = Field(
        default=None, exclude_if=_absent, description="how subjects with several templates are compared"
    )
    curves: list[MeasuredCurve] | None = Field(default=None, exclude_if=_absent, description="accuracy, as measured")
    cost: list[Cost] | None = Field(default=None, exclude_if=_absent, description="what the profile costs in accuracy")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.kinds not in (("patronus",), ("seal",), ("patronus", "seal")):
            raise ValueError("steps are patronus, seal, or both in this order")
        if self.patronus is not None and self.embedder == ANY_EMBEDDER:
            raise ValueError("a network is for one embedder, which the profile must name")
        if self.score is not None and (self.score.tar or self.score.fmr) and self.threshold is None:
            raise ValueError("the rates of `score` are at the profile's threshold, which must be there too")
        refuse_repeated(self.curves, self.cost)
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the steps, in their order."""
        return tuple(step.kind for step in self.steps)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What protects, in this order."""
        network: list[Layer] = [] if self.patronus is None else [*self.patronus.layers]
        return (*network, "seal") if self.kinds[-1] == "seal" else tuple(network)

    @property
    def patronus(self) -> PatronusStep | None:
        """The step that runs a network, if there is one."""
        return next((step for step in self.steps if isinstance(step, PatronusStep)), None)
