"""What is done for a few templates looks at these, however large the gallery is.

SQLite plans without knowing how much is in a table, so that its plans for a small record are those for a large one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from cloud_service.settings import Settings
from tests.support.cloud_client import Cloud, random_units

VECTORS = random_units(3, 9)
IDS = [f"{number:032x}" for number in range(9)]
# How SQLite says that it goes through a whole table, or all of a gallery.
WHOLE = (
    "SCAN template",
    "SCAN subject",
    "SCAN rekeyed_template",
    "template USING INDEX ix_template_gallery_id_created_at (gallery_id=? AND created_at>?)",
    "template USING INDEX ix_template_gallery_id_created_at (gallery_id=?)",
    "template USING INDEX ix_template_gallery_id_id (gallery_id=?)",
    "template USING COVERING INDEX ix_template_gallery_id_created_at (gallery_id=?)",
    "template USING COVERING INDEX ix_template_gallery_id_id (gallery_id=?)",
    "template USING INDEX sqlite_autoindex_template_1 (gallery_id=?)",
    "subject USING INDEX sqlite_autoindex_subject_1 (gallery_id=?)",
    "subject USING COVERING INDEX sqlite_autoindex_subject_1 (gallery_id=?)",
)


@pytest.fixture
def cloud(settings: Settings) -> Iterator[Cloud]:
    with Cloud(settings) as cloud:
        cloud.put_gallery()
        for number in range(4):
            cloud.enroll(f"s{number}", VECTORS[2 * number : 2 * number + 2], ids=IDS[2 * number : 2 * number + 2])
        yield cloud


@contextmanager
def planned() -> Iterator[dict[str, list[str]]]:
    """The plan of every query meanwhile, by the query."""
    plans: dict[str, list[str]] = {}

    def note(connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.split(" ", 1)[0] in {"SELECT", "UPDATE", "DELETE", "INSERT", "WITH"}:
            raw = connection.connection.dbapi_connection
            one = parameters[0] if many else parameters
            plans[statement] = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", one)]

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield plans
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def whole(plans: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Each step of a plan that goes through everything, with its query."""
    return [(step, query) for query, steps in plans.items() for step in steps if step.endswith(WHOLE)]


def test_a_query_through_everything_is_told_apart(cloud: Cloud) -> None:
    with planned() as plans:
        cloud.http.delete("/v1/galleries/door").raise_for_status()
    assert whole(plans)


def test_nobody_is_compared_enrolled_or_erased_by_going_through_the_gallery(cloud: Cloud) -> None:
    with planned() as plans:
        assert cloud.verify("s1", VECTORS[2]).json()["decision"] == "match"
        assert cloud.found(VECTORS[2])[0] == "s1"
        assert cloud.enroll("s4", VECTORS[8:9], ids=IDS[8:9], headers={"Idempotency-Key": "once"}).is_success
        assert cloud.erase(f"/subjects/s1/templates/{IDS[2]}") == (0, 1)
        assert cloud.erase("/subjects/s0") == (1, 2)
    assert len(plans) > 10
    assert whole(plans) == []


def test_nor_where_templates_expire(cloud: Cloud) -> None:
    cloud.http.put("/v1/galleries/door/retention", json={"max_age_seconds": 86_400}).raise_for_status()
    with planned() as plans:
        assert cloud.verify("s1", VECTORS[2]).json()["decision"] == "match"
        assert cloud.found(VECTORS[2])[0] == "s1"
        assert cloud.enroll("s4", VECTORS[8:9], ids=IDS[8:9]).is_success
        assert cloud.erase("/subjects/s0") == (1, 2)
    assert whole(plans) == []
