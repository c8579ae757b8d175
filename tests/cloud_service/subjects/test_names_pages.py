"""An edge that keeps a list of a gallery's subjects learns of each change, and of nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud_service.record.backup import back_up, restore
from cloud_service.settings import Settings
from tests.support.cloud_client import Cloud, assert_problem, enveloped, random_units

DOOR = "/v1/galleries/door"
ROWS = random_units(171, 8)
IDS = [f"{number:032x}" for number in range(8)]


def _names(cloud: Cloud, **query: Any) -> dict[str, Any]:
    answer = cloud.http.get(f"{DOOR}/names", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _counts(page: dict[str, Any]) -> dict[str, int]:
    return {one["subject"]: one["templates"] for one in page["items"]}


@pytest.mark.both_engines
def test_pages_are_by_id_and_complete(client: Cloud) -> None:
    for at, name in enumerate(("c", "a", "b")):
        client.enroll(name, ROWS[at : at + 1])
    first = _names(client, limit=2)
    second = _names(client, limit=2, after=first["next"])
    assert [one["subject"] for one in first["items"] + second["items"]] == ["c", "a", "b"]
    assert (first["complete"], second["complete"], second["next"]) == (True, True, None)
    for query in ({"limit": 10_001}, {"limit": 0}, {"after": -1}, {"since": "x"}, {"after": 2**63}):
        answer = client.http.get(f"{DOOR}/names", params=query)
        assert_problem(answer, 422, "unprocessable", "invalid_request")


@pytest.mark.both_engines
def test_each_change_is_told_once(client: Cloud) -> None:
    def since() -> dict[str, int]:
        nonlocal version
        page = _names(client, since=version)
        version = page["version"]
        assert not page["complete"]
        return _counts(page) | ({} if page["ids"] is None else {"there": len(page["ids"])})

    version = 0
    assert since() == {}
    client.enroll("zoe", ROWS[4:5])
    [zoe] = _names(client, since=version)["items"]
    assert since() == {"zoe": 1}
    client.http.post(f"{DOOR}/subjects/zoe/move", json={"to": "zora", "onto": "new"}).raise_for_status()
    [zora] = _names(client, since=version)["items"]
    assert (zora["subject"], zora["id"]) == ("zora", zoe["id"]), "the same one, by its id"
    assert since() == {"zora": 1}
    client.enroll("anna", ROWS[:2], ids=IDS[:2])
    client.enroll("ben", ROWS[2:3])
    assert since() == {"anna": 2, "ben": 1}
    assert since() == {}
    client.enroll("anna", ROWS[:1], ids=IDS[:1])
    assert since() == {}, "stored before"
    client.enroll("anna", ROWS[3:4])
    assert since() == {"anna": 3}
    client.http.delete(f"{DOOR}/subjects/anna/templates/{IDS[0]}").raise_for_status()
    assert since() == {"anna": 2}
    moment = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    client.http.put(f"{DOOR}/subjects/ben/expiry", json={"expires_at": moment}).raise_for_status()
    assert since() == {"ben": 1}
    bulk = [
        {"subject": name, "templates": [{"id": IDS[at], "template": enveloped(ROWS[at])}]}
        for at, name in ((5, "c"), (6, "d"))
    ]
    client.http.post(f"{DOOR}/templates", json={"subjects": bulk}).raise_for_status()
    assert since() == {"c": 1, "d": 1}
    before = version
    client.http.post(f"{DOOR}/subjects/c/move", json={"to": "e", "onto": "new"}).raise_for_status()
    assert since() == {"e": 1}
    everybody = {one["subject"]: one["id"] for one in _names(client)["items"]}
    client.http.delete(f"{DOOR}/subjects/ben").raise_for_status()
    page = _names(client, since=version)
    assert set(page["ids"]) == set(everybody.values()) - {everybody["ben"]}
    assert since() == {"there": 4}
    client.enroll("f", ROWS[7:8])
    assert since() == {"f": 1}
    page = _names(client, since=before, limit=1)
    assert (len(page["ids"]), _counts(page)) == (5, {"e": 1})
    later = _names(client, since=before, limit=1, after=page["next"])
    assert (later["ids"], _counts(later)) == (None, {"f": 1})
    assert _names(client, since=version + 5)["complete"], "of another record"


def test_a_restored_record_has_the_lists_of_edges_read_anew(client: Cloud, tmp_path: Path) -> None:
    client.enroll("anna", ROWS[:1])
    record = client.settings.home / "record.db"
    back_up(record, tmp_path / "backup")
    client.enroll("ben", ROWS[1:2])
    version = _names(client)["version"]
    other = Settings(home=tmp_path / "other")
    restore(tmp_path / "backup", other.home / "record.db")
    with Cloud(other) as restored:
        restored.enroll("carl", ROWS[2:3])
        page = _names(restored, since=version)
        assert (_counts(page), len(page["ids"])) == ({"anna": 1, "carl": 1}, 2), "to an edge's list, all have changed"
