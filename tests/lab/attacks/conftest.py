"""Attacks that are small enough for a test."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from lab.attacks import frontier, suite
from lab.attacks.attackers import QUICK, Effort
from lab.defence.decoders import InversionOptions


@pytest.fixture(scope="module")
def tiny() -> Iterator[Effort]:
    """What a quick attack spends, from now on: seconds."""
    effort = dataclasses.replace(
        QUICK,
        pictures=1000,
        families=("upsampling",),
        decoders=InversionOptions(epochs=0.5, identity_steps=4),
        round_steps=2,
        adapted_steps=2,
        denoiser_epochs=4,
        attacked=30,
        curve=20,
        inverted=3,
        inversion_steps=6,
        alignment_rounds=4,
        replayed=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "QUICK", effort)
        patch.setattr(frontier, "_LEARNED", (0, 128))
        patch.setattr(frontier, "_ROWS", (0, 128))
        yield effort
