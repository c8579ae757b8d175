"""A moment in what services send and take is text with its time zone, never a number of seconds."""

from __future__ import annotations

import importlib
import pkgutil
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import shared.wire
from shared.security.credentials import ApiKeyRecord
from shared.strict_types import Moment

MODELS = {
    ApiKeyRecord,
    *(
        found
        for module in pkgutil.iter_modules(shared.wire.__path__)
        for found in vars(importlib.import_module(f"shared.wire.{module.name}")).values()
        if isinstance(found, type) and issubclass(found, BaseModel)
    ),
}
FIELDS = [
    (model, name)
    for model in sorted(MODELS, key=lambda model: model.__name__)
    for name, field in model.model_fields.items()
    if "datetime" in str(field.annotation)
]


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_no_member_takes_a_number_for_a_moment(model: type[BaseModel], name: str) -> None:
    for number in (1, 1.5, "1", 1_798_761_600, "1798761600"):
        with pytest.raises(ValidationError) as refused:
            model.model_validate({name: number})
        assert name in {each["loc"][0] for each in refused.value.errors()}


def test_there_are_moments_to_look_at() -> None:
    assert {name for _, name in FIELDS} >= {"at", "created_at", "due_by", "expires_at", "revoked_at"}


def test_a_moment_is_read_as_it_is_written() -> None:
    moment = TypeAdapter(Moment)
    now = datetime.now(UTC)
    for strict in (False, True):
        assert moment.validate_json(moment.dump_json(now), strict=strict) == now
        assert moment.validate_python(now, strict=strict) == now


@pytest.mark.parametrize("zone", ["+00:60", "-00:99", "+24:00", "+1:00", "+0100", "", "+00:59:59"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    moment = TypeAdapter(Moment)
    assert moment.validate_python("2027-01-31T18:00:00+23:59")
    with pytest.raises(ValidationError, match="its zone as RFC 3339 does"):
        moment.validate_python(f"2027-01-31T18:00:00{zone}")
