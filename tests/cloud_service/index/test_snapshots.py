"""A start reads the snapshots that the record vouches for, and makes again the others; what was erased is in none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection

from cloud_service.index import flat as index_module
from cloud_service.index.faiss_indexes import FaissIndexes
from cloud_service.index.flat import SegmentedIndex
from cloud_service.record.record import Record
from cloud_service.settings import IndexSettings, Settings
from shared.errors import SetupError
from tests.support.cloud_client import Cloud, assert_problem, random_units
from tests.support.damaging import change_blob, huge

VECTORS = random_units(21, 200)
PROBES = VECTORS[::9]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 32 rows, so that 200 templates fill six, and eight are left."""
    monkeypatch.setattr(index_module, "_MOST", 32)
    monkeypatch.setattr(index_module, "_LEAST", 8)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cloud's home with 200 subjects of one template each, and no snapshot."""
    home = tmp_path_factory.mktemp("filled") / "cloud"
    index = IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)
    with Cloud(Settings(home=home, index=index)) as cloud:
        cloud.put_gallery()
        for number, vector in enumerate(VECTORS):
            assert cloud.enroll(f"s{number:03}", [vector]).status_code == 201
    return home


@pytest.fixture
def settings(filled: Path, tmp_path: Path) -> Settings:
    """Of a cloud that is filled."""
    shutil.copytree(filled, tmp_path / "cloud")
    return Settings(home=tmp_path / "cloud")


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Files are written when they are asked for, and not at an end."""
    return settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many templates each read of the record for an index gave."""
    sizes: list[int] = []
    add: Callable[..., None] = SegmentedIndex.add

    def counted(self: SegmentedIndex, ids: np.ndarray, rows: np.ndarray) -> None:
        sizes.append(len(ids))
        add(self, ids, rows)

    monkeypatch.setattr(SegmentedIndex, "add", counted)
    return sizes


def _snapshot(cloud: Cloud) -> dict[str, int]:
    answer = cloud.http.post("/v1/galleries/door/snapshot")
    assert answer.status_code == 200
    body: dict[str, int] = answer.json()
    return body


def _files(settings: Settings) -> list[Path]:
    return sorted((settings.home / "index").iterdir())


def _answers(cloud: Cloud) -> list[object]:
    return [cloud.identify(probe, top_k=100).json()["results"] for probe in PROBES]


def test_a_start_reads_files_and_only_what_they_lack_from_the_record(patient: Settings, read: list[int]) -> None:
    with Cloud(patient) as cloud:
        assert _snapshot(cloud) == {"files": 6, "entries": 192}
        assert _snapshot(cloud) == {"files": 6, "entries": 192}, "nothing is written twice"
        assert cloud.http.get("/v1/galleries/door/stats").json()["snapshot_entries"] == 192
        before = _answers(cloud)
    assert {file.stat().st_mode & 0o777 for file in _files(patient)} == {0o600}
    read.clear()
    with Cloud(patient) as cloud:
        assert sum(read) == 8
        assert _answers(cloud) == before
        assert cloud.enroll("new", random_units(22, 1)).status_code == 201
        assert cloud.found(random_units(22, 1)[0])[0] == "new"


def test_it_is_written_from_time_to_time_and_at_an_end_without_being_asked(settings: Settings, read: list[int]) -> None:
    often = settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=0.05, close_timeout_s=0)})
    with Cloud(often) as cloud:
        indexes: FaissIndexes = cloud.services.store.indexes
        gallery = indexes._record.gallery("door")
        for _ in range(200):
            if indexes._snapshots.info(gallery).files == 6:
                break
            indexes._closing.wait(0.05)
        assert indexes._snapshots.info(gallery).files == 6
        for number in range(40):
            cloud.http.delete(f"/v1/galleries/door/subjects/s{number:03}")
    with Cloud(settings):  # writes at its end
        pass
    read.clear()
    with Cloud(settings) as cloud:
        assert sum(read) < 32
        assert cloud.held() == (160, 160)


@pytest.mark.parametrize("path", ["/subjects/s005", ""])
def test_what_is_erased_is_in_no_file_when_that_is_answered(patient: Settings, path: str, read: list[int]) -> None:
    with Cloud(patient) as cloud:
        _snapshot(cloud)
        codes = {
            id_: row.tobytes()
            for segment in _index(cloud).segments()
            for id_, row in zip(*segment.alive(), strict=True)
        }
        first = min(codes)
        held = _files(patient)
        assert any(codes[first + 5] in file.read_bytes() for file in held)
        inode = {file: file.open("rb") for file in held}  # what is unlinked can still be read here
        assert cloud.http.delete(f"/v1/galleries/door{path}").status_code == 200
        assert not any(codes[first + 5] in file.read_bytes() for file in _files(patient))
        assert not any(codes[first + 5] in file.read() for file in inode.values()), "overwritten, not only unlinked"
        for file in inode.values():
            file.close()
        if path:
            assert len(_files(patient)) == 5
            assert cloud.found(VECTORS[5]) == [name for name in cloud.found(VECTORS[5]) if name != "s005"]
        else:
            assert _files(patient) == []
    read.clear()
    with Cloud(patient) as cloud:
        if path:
            assert sum(read) == 31 + 8, "its segment is read from the record again, without it"
            assert cloud.held() == (199, 199)
            assert _snapshot(cloud)["entries"] >= 160


def _index(cloud: Cloud) -> SegmentedIndex:
    indexes: FaissIndexes = cloud.services.store.indexes
    return indexes.of(indexes._record.gallery("door"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def _another(path: Path) -> None:
    shutil.copyfile(next(one for one in path.parent.iterdir() if one != path), path)


@pytest.mark.parametrize("damage", [_cut, _flipped, _another, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_or_foreign_file_is_made_again(
    patient: Settings, damage: Callable[[Path], None], read: list[int]
) -> None:
    with Cloud(patient) as cloud:
        _snapshot(cloud)
        before = _answers(cloud)
    damage(_files(patient)[2])
    read.clear()
    with Cloud(patient) as cloud:
        assert sum(read) == 32 + 8
        assert len(_files(patient)) == 5
        assert _answers(cloud) == before
        assert _snapshot(cloud) == {"files": 6, "entries": 192}


def test_files_of_a_time_before_a_backup_was_restored_are_not_trusted(patient: Settings, tmp_path: Path) -> None:
    record = tmp_path / "record.db"
    shutil.copyfile(patient.home / "record.db", record)
    with Cloud(patient) as cloud:  # other templates take the ids that the copy does not know of
        for number, vector in enumerate(random_units(23, 200)):
            cloud.enroll(f"other{number:03}", [vector])
        _snapshot(cloud)
    shutil.copyfile(record, patient.home / "record.db")
    with Cloud(patient) as cloud:
        assert _files(patient) == []
        for number, vector in enumerate(random_units(24, 60)):
            cloud.enroll(f"new{number:03}", [vector])
        assert all(cloud.found(vector)[0] == f"new{number:03}" for number, vector in enumerate(random_units(24, 60)))


def test_a_file_left_by_a_crash_before_its_digest_was_written_down_is_removed(patient: Settings) -> None:
    with Cloud(patient) as cloud:
        _snapshot(cloud)
    shutil.copyfile(_files(patient)[0], patient.home / "index" / "left.segment")
    with Cloud(patient):
        assert len(_files(patient)) == 6


def test_a_segment_of_which_something_was_erased_while_it_was_copied_is_not_kept(patient: Settings) -> None:
    with Cloud(patient) as cloud:
        store = cloud.services.store
        gallery = store.record.gallery("door")
        segment = _index(cloud).full()[0]
        record: Record = store.record
        record.erase_subject(gallery, "s003", by=None)  # committed; the index was not told yet
        assert store.indexes._snapshots.save(gallery, segment, _index(cloud).segments()) is False
        assert _files(patient) == []


def test_nor_one_of_which_something_was_erased_after_the_record_was_asked_what_it_has(
    patient: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(patient) as cloud:
        store = cloud.services.store
        gallery = store.record.gallery("door")
        segment = _index(cloud).full()[0]
        write = store.record.database.write
        asked = []

        def late_write() -> AbstractContextManager[Connection]:
            patched.undo()
            asked.append(store.record.erase_subject(gallery, "s003", by=None))
            return write()

        with monkeypatch.context() as patched:
            patched.setattr(store.record.database, "write", late_write)
            assert store.indexes._snapshots.save(gallery, segment, _index(cloud).segments()) is False
        assert len(asked) == 1
        assert _files(patient) == []
        index = _index(cloud)
        assert store.indexes._snapshots.save(gallery, index.full()[-1], index.segments()) is True


@pytest.mark.parametrize(("rule", "lacking"), [("best", {3, 4, 100}), ("mean", set())])
def test_a_damaged_template_does_not_keep_the_others_from_being_written(
    patient: Settings, read: list[int], rule: str, lacking: set[int]
) -> None:
    """As an entry of its own it is left out of the index; as the only one of a mean it leaves a vector of zeros."""
    with Cloud(patient) as cloud:
        cloud.http.patch("/v1/galleries/door", json={"score": {"rule": rule}}).raise_for_status()
        for row in (3, 4, 100):
            change_blob(cloud, row, huge(0))
    with Cloud(patient) as cloud:
        assert _snapshot(cloud) == {"files": 6, "entries": 192}
        assert set(_in_memory(cloud)) == set(range(1, 201)) - lacking
        change_blob(cloud, 50, huge(0))  # and one that the index has
        cloud.verify("s049", VECTORS[49])
        assert _snapshot(cloud) == {"files": 6, "entries": 192}
    read.clear()
    with Cloud(patient) as cloud:
        assert sum(read) == 8 - len(lacking)
        assert cloud.found(VECTORS[60])[0] == "s060"


def test_a_folder_that_cannot_be_made_stops_nobody(patient: Settings) -> None:
    with Cloud(patient) as cloud:
        (patient.home / "index").write_bytes(b"")  # no folder can be made
        assert_problem(cloud.http.post("/v1/galleries/door/snapshot"), 500, "unexpected-error")
        assert cloud.found(VECTORS[0])[0] == "s000"
        assert cloud.enroll("new", random_units(22, 1)).status_code == 201


def _in_memory(cloud: Cloud) -> list[int]:
    ids = np.concatenate([segment.ids[: segment.used] for segment in _index(cloud).segments()])
    return sorted(ids[ids >= 0].tolist())


@pytest.mark.parametrize(
    "erased",
    [
        [5, 170],
        *(
            pytest.param(erased, marks=pytest.mark.slow(reason="other erasures"))
            for erased in ([5], list(range(0, 40)), list(range(20, 60)))
        ),
    ],
    ids=str,
)
def test_no_template_is_read_from_two_files_however_often_it_starts(patient: Settings, erased: list[int]) -> None:
    """Segments are rewritten, joined and filled up between files; what stood in an older one is not read again."""
    left = 200 - len(erased)
    for _ in range(2):
        with Cloud(patient) as cloud:
            assert len(_in_memory(cloud)) == 200
            _snapshot(cloud)
        with Cloud(patient) as cloud:
            _snapshot(cloud)
    with Cloud(patient) as cloud:
        for number in erased:
            cloud.erase(f"/subjects/s{number:03}")
        _snapshot(cloud)
    for _ in range(4):
        with Cloud(patient) as cloud:
            ids = _in_memory(cloud)
            assert (len(ids), len(set(ids))) == (left, left)
            assert cloud.http.get("/v1/galleries/door/stats").json()["entries"] == left
            written = _snapshot(cloud)
            assert written["entries"] <= left
            assert written["files"] == len(_files(patient))
    with Cloud(patient) as cloud:
        cloud.erase("/subjects/s100")
        assert len(_in_memory(cloud)) == left - 1


def test_an_operator_pins_how_a_gallery_is_searched(patient: Settings) -> None:
    with Cloud(patient) as cloud:
        path = "/v1/galleries/door"
        before = _answers(cloud)
        stats = cloud.http.get(f"{path}/stats").json()
        assert stats["memory_bytes"] >= 200 * (16 + 8)
        assert (stats["backend"], stats["kind"], stats["pinned"], stats["entries"]) == ("faiss", "exact", None, 200)
        stats = cloud.http.put(f"{path}/index", json={"kind": "approximate"}).json()
        assert (stats["kind"], stats["pinned"]) == ("approximate", "approximate")
        assert [answer[0]["candidates"][0] for answer in _answers(cloud)] == [
            answer[0]["candidates"][0] for answer in before
        ]
        assert cloud.http.put(f"{path}/index", json={"kind": "auto"}).json()["kind"] == "exact"
        assert _answers(cloud) == before
        assert_problem(cloud.http.put(f"{path}/index", json={"kind": "best"}), 422, "unprocessable")
        assert_problem(cloud.http.get("/v1/galleries/none/stats"), 404, "not-found", "unknown_gallery")


def test_a_gallery_may_hold_more_than_what_is_searched_exactly() -> None:
    """Else the approximate index could never begin by itself."""
    settings = Settings()
    assert settings.index.exact_up_to < settings.record.max_templates_a_gallery


def test_beyond_a_number_of_templates_it_is_approximate_by_itself(settings: Settings) -> None:
    index = IndexSettings(exact_up_to=100, snapshot_interval_s=0.05)
    with Cloud(settings.model_copy(update={"index": index})) as cloud:
        for _ in range(200):
            stats = cloud.http.get("/v1/galleries/door/stats").json()
            if stats["kind"] == "approximate":
                break
            cloud.services.store.indexes._closing.wait(0.05)
        assert (stats["kind"], stats["pinned"]) == ("approximate", None)
        assert all(cloud.found(vector)[0] == f"s{number:03}" for number, vector in enumerate(VECTORS))


def test_what_is_no_file_of_ours_is_left_alone(patient: Settings, tmp_path: Path) -> None:
    folder = patient.home / "index"
    folder.mkdir(mode=0o700)
    (folder / "lost+found").mkdir()
    mine = tmp_path / "mine"
    mine.write_bytes(b"not to be overwritten")
    (folder / "link.segment").symlink_to(mine)
    (folder / "stray.segment").write_bytes(b"left by a crash")
    with Cloud(patient) as cloud:
        assert cloud.found(VECTORS[0])[0] == "s000"
        _snapshot(cloud)
    assert mine.read_bytes() == b"not to be overwritten"
    assert not (folder / "stray.segment").exists()


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_record_that_is_gone_while_its_index_is_there_stops_the_start(patient: Settings, left: str) -> None:
    with Cloud(patient) as cloud:
        _snapshot(cloud)
    for file in patient.home.glob("record.db*"):
        file.unlink()
    if left == "an empty file":
        (patient.home / "record.db").touch()
    with pytest.raises(SetupError, match="is missing" if left == "nothing" else "has no bytes"), Cloud(patient):
        pass
    (patient.home / "record.db").unlink(missing_ok=True)
    shutil.rmtree(patient.home / "index")
    with Cloud(patient) as cloud:
        assert cloud.put_gallery().status_code == 201
