"""A contract's digest is the same for ever, and another one as soon as anything differs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.contract import Contract, EmbedderPin, ProfilePin, SealPin

CONTRACT = Contract(
    dim=128,
    embedder=EmbedderPin(name="sface", sha256="e" * 64, preprocessing="five points"),
    profile=ProfilePin(name="seal", version=1, sha256="f" * 64),
    seal=SealPin(key_id="1" * 32, epoch="2" * 16),
)


def test_an_upgrade_does_not_change_the_digest() -> None:
    """A golden value: a change here makes every stored template foreign."""
    assert CONTRACT.digest() == "4a7797ec89aec04a606db2783e3bd4e6176151b9ca1f079be45fd656b74000a6"


def leaves(document: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in document.items():
        found += leaves(value, (*path, name)) if isinstance(value, dict) else [(*path, name)]
    return found


def with_change(path: tuple[str, ...]) -> Contract:
    document = CONTRACT.model_dump()
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    if path[-1] in {"scope", "seeds"}:
        inner[path[-1]] = {"scope": "subject", "seeds": "3" * 16}[path[-1]]
    else:
        value = inner[path[-1]]
        inner[path[-1]] = value + 1 if isinstance(value, int) else ("0" if value[0] != "0" else "1") + value[1:]
    return Contract.model_validate(document)


SEEDS = ("seal", "seeds")  # written only where they are another epoch's
FREE = [path for path in leaves(CONTRACT.model_dump()) if path not in {("version",), ("metric",)}] + [SEEDS]


@pytest.mark.parametrize("path", FREE, ids="/".join)
def test_the_digest_changes_with_every_member(path: tuple[str, ...]) -> None:
    assert with_change(path).digest() != CONTRACT.digest()


def test_every_change_gives_a_digest_of_its_own() -> None:
    unsealed = CONTRACT.model_copy(update={"seal": None})
    assert len({contract.digest() for contract in [CONTRACT, unsealed, *map(with_change, FREE)]}) == len(FREE) + 2


def test_a_contract_from_before_seals_had_a_scope_or_seeds_is_the_same() -> None:
    document = CONTRACT.model_dump()
    del document["seal"]["scope"]
    assert "seeds" not in document["seal"]
    assert Contract.model_validate(document) == CONTRACT
    assert not CONTRACT.verify_only
    assert with_change(("seal", "scope")).verify_only
    assert not CONTRACT.model_copy(update={"seal": None}).verify_only


def test_the_wire_does_not_change_the_digest() -> None:
    assert Contract.model_validate_json(CONTRACT.model_dump_json()).digest() == CONTRACT.digest()


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"metric": "l2"}, {"dim": 1}, {"dim": "128"}, {"extra": 1}, {"seal": {"key_id": "x"}}],
)
def test_a_contract_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Contract.model_validate(CONTRACT.model_dump() | change)
