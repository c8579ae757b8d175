"""Files of an index that hold a mean which was replaced are read no more, and gone before an erasure is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloud_service.index.flat import SegmentedIndex
from cloud_service.settings import IndexSettings, Settings
from tests.support.cloud_client import Cloud, random_units

VECTORS = random_units(21, 36)
DOOR = "/v1/galleries/door"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries each read of the record for an index gave; segments have eight rows."""
    monkeypatch.setattr("cloud_service.index.flat._MOST", 8)
    monkeypatch.setattr("cloud_service.index.flat._LEAST", 4)
    sizes: list[int] = []
    add: Callable[..., None] = SegmentedIndex.add

    def counted(self: SegmentedIndex, ids: np.ndarray, rows: np.ndarray) -> None:
        sizes.append(len(ids))
        add(self, ids, rows)

    monkeypatch.setattr(SegmentedIndex, "add", counted)
    return sizes


def _index(cloud: Cloud) -> SegmentedIndex:
    store = cloud.services.store
    index = store.indexes.of(store.record.gallery("door"))
    assert isinstance(index, SegmentedIndex)
    return index


def test_nothing_was_erased_when_the_mean_was_replaced_yet_an_erasure_waits_for_its_file(
    settings: Settings, read: list[int]
) -> None:
    keeping = settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)})

    def files() -> set[Path]:
        return set((settings.home / "index").iterdir())

    with Cloud(keeping) as cloud:
        cloud.put_gallery()
        for number, vector in enumerate(VECTORS):
            cloud.enroll(f"s{number}", [vector])
        assert cloud.http.post(f"{DOOR}/snapshot").json() == {"files": 4, "entries": 32}
        before = files()
        for number in (3, 10, 11):
            assert cloud.enroll(f"s{number}", [VECTORS[number]]).status_code == 201
        assert files() == before, "an enrollment does not wait for it"
        assert cloud.http.get(f"{DOOR}/stats").json()["snapshot_entries"] == 16
    read.clear()
    with Cloud(keeping) as cloud:
        assert sum(read) == 36 - 16
        ids = np.concatenate([segment.ids for segment in _index(cloud).segments()])
        assert sorted(ids[ids >= 0].tolist()) == sorted({*range(1, 40)} - {4, 11, 12})
        assert _index(cloud).last == 39
        assert cloud.found(VECTORS[10])[0] == "s10"
        stale = next(iter(files())).with_name("f" * 32 + ".segment")
        stale.write_bytes(b"of a mean")  # as one that could not be removed at the start
        cloud.erase("/subjects/s3")
        assert not stale.exists()
        cloud.http.post(f"{DOOR}/snapshot").raise_for_status()
    with Cloud(keeping) as cloud:
        assert _index(cloud).last == 39, "also where files alone were read"
        assert cloud.found(VECTORS[11])[0] == "s11"
