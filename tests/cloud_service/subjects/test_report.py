"""The report about a subject holds all that the cloud holds about it, and nothing about others."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from shared.wire.cloud import SubjectReport
from tests.support.cloud_client import Cloud, assert_problem, random_units
from tests.support.damaging import change_blob, huge

DOOR = "/v1/galleries/door"
ROWS = random_units(201, 4)
IDS = [f"{number:032x}" for number in range(4)]


@pytest.mark.both_engines
def test_it_has_the_templates_their_dates_and_the_entries_of_the_log(client: Cloud) -> None:
    client.enroll("anna", ROWS[:3], ids=IDS[:3])
    client.enroll("ben", ROWS[3:])
    client.http.put(f"{DOOR}/subjects/anna/expiry", json={"expires_at": "2099-01-01T00:00:00Z"}).raise_for_status()
    client.http.delete(f"{DOOR}/subjects/anna/templates/{IDS[1]}").raise_for_status()
    client.http.post(f"{DOOR}/subjects/anna/move", json={"to": "amy", "onto": "new"}).raise_for_status()
    client.http.post(f"{DOOR}/subjects/ben/move", json={"to": "amy", "onto": "existing"}).raise_for_status()
    answer = client.http.get(f"{DOOR}/subjects/amy/report")
    assert answer.status_code == 200, answer.text
    report = SubjectReport.model_validate_json(answer.content)
    assert report.subject == "amy"
    assert report.expires_at is not None
    assert [one.id for one in report.templates][:2] == [IDS[0], IDS[2]]
    vectors = [np.frombuffer(base64.b64decode(one.data), "<f4") for one in report.vectors]
    assert np.array_equal(vectors, ROWS[[0, 2, 3]])
    assert [one.action for one in report.audit] == [
        "expiry_changed",
        "template_erased",
        "subject_renamed",
        "templates_moved",
    ]
    assert "data" not in repr(report)
    client.enroll("ben", ROWS[3:], ids=[IDS[3]])
    other = client.http.get(f"{DOOR}/subjects/ben/report").json()
    assert (other["audit"], len(other["vectors"])) == ([], 1), "another ben"


def test_it_is_refused_for_nobody_and_where_a_template_is_damaged(client: Cloud) -> None:
    assert_problem(client.http.get(f"{DOOR}/subjects/anna/report"), 404, "not-found", "unknown_subject")
    assert_problem(client.http.get("/v1/galleries/x/subjects/anna/report"), 404, "not-found", "unknown_gallery")
    client.enroll("anna", ROWS[:2])
    change_blob(client, 2, huge(1))
    assert_problem(client.http.get(f"{DOOR}/subjects/anna/report"), 503, "record-damaged", "template_damaged")
