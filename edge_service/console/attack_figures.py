"""What was measured of faces rebuilt under a profile, as the console shows it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field, JsonValue, ValidationError

from shared.wire.edge_console import RebuiltRates

_HELD_OUT = "(held out)"


class _Rate(BaseModel):
    value: float = Field(ge=0, le=1)


class _Accepted(BaseModel):
    type_1: dict[str, _Rate]
    type_2: dict[str, _Rate]

    def rates(self) -> tuple[float, float]:
        return self.type_1["target"].value, self.type_2["target"].value


class _Decoder(BaseModel):
    clean: _Accepted
    protected: _Accepted


class _Figures(BaseModel):
    attacked: int = Field(ge=1)
    attacks: dict[str, JsonValue]


def rebuilt_rates(figures: Mapping[str, JsonValue] | None) -> RebuiltRates | None:
    """The rates of the decoder that the training never saw.

    Args:
        figures: of a profile; those of an operator's own may hold anything.

    Returns:
        None where they were not measured.
    """
    try:
        found = _Figures.model_validate(figures)
        family = next(name for name in found.attacks if name.endswith(_HELD_OUT))
        decoder = _Decoder.model_validate(found.attacks[family])
        same, other = decoder.clean.rates()
        same_protected, other_protected = decoder.protected.rates()
    except (ValidationError, StopIteration, KeyError):
        return None
    return RebuiltRates(
        people=found.attacked,
        unprotected_same=same,
        unprotected_other=other,
        protected_same=same_protected,
        protected_other=other_protected,
    )
