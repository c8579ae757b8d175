"""A restored record has the means without what was erased since, under ids that none had before."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_service.record.backup import back_up, restore
from cloud_service.settings import Settings
from tests.cloud_service.entries.reference import MEAN, plain_score
from tests.support.cloud_client import Cloud, random_units, unit

ROWS = unit(random_units(8, 1) + 0.5 * random_units(9, 4))
IDS = [f"{number:032x}" for number in range(4)]


def test_an_erasure_that_is_repeated_changes_the_mean(settings: Settings, tmp_path: Path) -> None:
    record, backup = settings.home / "record.db", tmp_path / "backup"
    with Cloud(settings) as cloud:
        cloud.put_gallery(score=MEAN, tau=0.1)
        cloud.enroll("anna", list(ROWS[:3]), ids=IDS[:3])
        cloud.enroll("ben", list(ROWS[3:]), ids=IDS[3:])
        back_up(record, backup)
        cloud.erase(f"/subjects/anna/templates/{IDS[0]}")
        used = cloud.services.store.record.gallery("door").last_entry
    assert restore(backup, record, replace=True).carried.repeated.templates == 1
    with Cloud(settings) as cloud:
        expected = pytest.approx(plain_score(MEAN, list(ROWS[1:3]), ROWS[0]), abs=2e-7)
        assert cloud.verify("anna", ROWS[0]).json()["similarity"] == expected
        found = {
            one["subject"]: one["similarity"] for one in cloud.identify(ROWS[0]).json()["results"][0]["candidates"]
        }
        assert found["anna"] == expected
        store = cloud.services.store
        pinned = store.record.gallery("door")
        [(ids, _)] = store.record.entries.batches(pinned)
        assert ids[0] == 2, "who did not change has the entry of before"
        assert used < ids[1] == pinned.last_entry
        assert cloud.held() == (2, 3)
