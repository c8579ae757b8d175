"""Python takes true for 1; no number that is read from outside is a truth value."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from cloud_service.erasure.erasure_list import ErasureList, KnownErasure
from edge_service.models.manifest import Manifest
from edge_service.protection.key_file import _KeyFile
from edge_service.protection.key_transfer import WrappedKey
from edge_service.protection.profiles.curves import Cost
from edge_service.protection.profiles.document import PatronusStep, ProfileDocument
from edge_service.protection.profiles.score import ScoreCalibration, ScoreWeights
from edge_service.vision.embedder_files import EmbedderDescription
from shared.contract import Contract, ProfilePin
from shared.security.key_ring import _File
from shared.wire import cloud, common, edge, edge_embeddings, edge_subjects, thresholds
from shared.wire.curves import Histogram, MeasuredCurve

DOCUMENTS: list[type[BaseModel]] = [
    *(_KeyFile, _File, WrappedKey, Contract, ProfilePin, Manifest, EmbedderDescription, ErasureList, KnownErasure),
    *(ProfileDocument, PatronusStep, ScoreCalibration, ScoreWeights, Cost, Histogram, MeasuredCurve),
]
WIRE = [
    model
    for module in (cloud, common, edge, edge_embeddings, edge_subjects, thresholds)
    for model in vars(module).values()
    if isinstance(model, type) and issubclass(model, common.Wire) and model.__module__ == module.__name__
]


def numbers(model: type[BaseModel]) -> Iterator[str]:
    """The members of a model that are numbers and no truth values."""
    for name, schema in model.model_json_schema().get("properties", {}).items():
        kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
        if kinds & {"integer", "number"} and "boolean" not in kinds:
            yield name


def taken(model: type[BaseModel], name: str, *, strict: bool | None) -> bool:
    """Whether a model takes true for a member."""
    try:
        model.model_validate_json(json.dumps({name: True}), strict=strict)
    except ValidationError as error:
        return not any(one["loc"][:1] == (name,) for one in error.errors())
    return True


def where_it_is_taken(models: list[type[BaseModel]], *, strict: bool | None) -> list[tuple[str, str]]:
    found = [(model, name) for model in models for name in numbers(model)]
    assert len(found) > 20
    return [(model.__name__, name) for model, name in found if taken(model, name, strict=strict)]


def test_no_document_has_a_truth_value_for_a_number() -> None:
    assert where_it_is_taken(DOCUMENTS, strict=None) == []


def test_no_answer_has_a_truth_value_for_a_number() -> None:
    """Client and edge read answers strictly."""
    assert where_it_is_taken(WIRE, strict=True) == []


def test_what_is_taken_is_noticed() -> None:
    class Lax(BaseModel):
        count: int

    assert list(numbers(Lax)) == ["count"]
    assert taken(Lax, "count", strict=None)
    assert not taken(Lax, "count", strict=True)
