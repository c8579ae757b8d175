"""Whatever is done in whatever order: the index holds the record's entries, and nothing of what was erased."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from cloud_service.housekeeping import check_clock
from cloud_service.index.flat import SegmentedIndex
from cloud_service.index.segment import ZERO
from cloud_service.record.tables import subject as subject_table
from cloud_service.record.tables import template as template_table
from cloud_service.settings import IndexSettings, RetentionSettings, Settings
from tests.cloud_service.entries.reference import BEST, FLAT, MEAN, mean_vector, plain_score
from tests.cloud_service.record.set_clock import Hands
from tests.support.cloud_client import Cloud, random_units
from tests.support.sealed import Key, Rows, plain

DIM, TAU = 16, 0.3
DOOR = "/v1/galleries/door"
SUBJECTS = ["anna", "ben", "carl", "dora", "emil"]
ROWS = random_units(2024, 400, DIM)
CENTERS = random_units(2025, len(SUBJECTS), DIM)
DAY = timedelta(days=1)
_STEP = 2 / 255


@dataclass
class Stored:
    """A template of the model: whose it is, the embedding, its weight, and when it was stored."""

    subject: str
    row: Rows
    weight: float
    at: datetime


@dataclass
class Seen:
    """What stood in the index: the bytes of a row, and of which templates it was made."""

    codes: bytes
    uids: frozenset[str] = field(default_factory=frozenset)


class Life(RuleBasedStateMachine):
    """One gallery, and what it should hold."""

    home: Path

    def __init__(self) -> None:
        super().__init__()
        self.hands = Hands(datetime(2026, 3, 1, 12, tzinfo=UTC))
        self.stored: dict[str, Stored] = {}
        self.seen: dict[tuple[int, int, int], Seen] = {}
        self.erased: set[str] = set()
        self.score = FLAT
        self.keys = (Key(DIM, number) for number in count())
        self.key = next(self.keys)
        self.uids = count(1)
        self.max_age: timedelta | None = None
        shutil.rmtree(self.home, ignore_errors=True)
        self._open()

    def _open(self) -> None:
        index = IndexSettings(snapshot_interval_s=3600, close_timeout_s=5)
        retention = RetentionSettings(sweep_interval_s=3600)
        settings = Settings(home=self.home, index=index, retention=retention)
        self.cloud = Cloud(settings, self.hands.clock())
        self.cloud.__enter__()

    def teardown(self) -> None:
        self.cloud.__exit__(None, None, None)

    @initialize(score=st.sampled_from([BEST, FLAT, MEAN]))
    def begin(self, score: dict[str, Any]) -> None:
        self.score = score
        assert self.cloud.put_gallery(contract=self.key.contract, tau=TAU, score=score).status_code == 201

    @rule(who=st.integers(0, len(SUBJECTS) - 1), many=st.integers(1, 4), weight=st.sampled_from([1.0, 0.1, 2.5, 10.0]))
    def enroll(self, who: int, many: int, weight: float) -> None:
        sent = []
        for _ in range(many):
            number = next(self.uids)
            row = CENTERS[who] + ROWS[number % len(ROWS)]
            row = (row / np.linalg.norm(row)).astype(np.float32)
            uid = f"{number:032x}"
            self.stored[uid] = Stored(SUBJECTS[who], row, weight, self.cloud.services.store.record.clock.now())
            sent.append({"id": uid, "template": self.key.envelope(row), "weight": weight})
        answer = self.cloud.http.post(f"{self._path(SUBJECTS[who])}/templates", json={"templates": sent})
        assert answer.status_code == 201, answer.text
        assert answer.json()["total"] == sum(one.subject == SUBJECTS[who] for one in self.living().values())

    @rule()
    def enroll_all_and_save(self) -> None:
        for who in range(len(SUBJECTS)):
            self.enroll(who, 1, 1.0)
        self.snapshot()

    @rule(data=st.data())
    def erase_template(self, data: st.DataObject) -> None:
        if self.stored:
            uid = data.draw(st.sampled_from(sorted(self.stored)))
            self.cloud.erase(f"/subjects/{self.key.name(self.stored[uid].subject)}/templates/{uid}")
            self._gone({uid})

    @rule(who=st.sampled_from(SUBJECTS))
    def erase_subject(self, who: str) -> None:
        if mine := {uid for uid, one in self.stored.items() if one.subject == who}:
            self.cloud.erase(f"/subjects/{self.key.name(who)}")
            self._gone(mine)

    @rule(who=st.sampled_from(SUBJECTS), to=st.sampled_from([*SUBJECTS, "nobody"]), data=st.data())
    def move(self, who: str, to: str, data: st.DataObject) -> None:
        """A subject is renamed or merged with another one, or one of its templates is moved."""
        living = sorted(uid for uid, one in self.living().items() if one.subject == who)
        if who == to or not living:
            return
        some = data.draw(st.none() | st.sampled_from(living))
        which = {uid for uid, one in self.stored.items() if one.subject == who} if some is None else {some}
        body = {"to": self.key.name(to), "onto": "either", "templates": None if some is None else [some]}
        answer = self.cloud.http.post(f"{self._path(who)}/move", json=body)
        assert answer.status_code == 200, answer.text
        for uid in which:
            self.stored[uid].subject = to
        assert answer.json()["templates"] == len(which)
        assert answer.json()["total"] == sum(one.subject == to for one in self.living().values())
        assert answer.json()["emptied"] == (who not in {one.subject for one in self.stored.values()})

    @rule(days=st.integers(1, 4))
    def time_passes(self, days: int) -> None:
        for _ in range(days * 24 * 15):
            self.hands.pass_by(timedelta(minutes=4))
            self.cloud.services.store.record.clock.observe(self.hands.wall)

    @rule(days=st.sampled_from([2, 3, 5]))
    def keep_for(self, days: int) -> None:
        self.cloud.http.put(f"{DOOR}/retention", json={"max_age_seconds": days * 86_400}).raise_for_status()
        if self.max_age != timedelta(days=days):
            self._drop_expired()  # by the age before
            self.max_age = timedelta(days=days)

    @rule()
    def sweep(self) -> None:
        store = self.cloud.services.store
        for gallery in check_clock(store):
            while store.erase_expired(gallery, 3):
                pass
        self._drop_expired()

    @rule()
    def snapshot(self) -> None:
        self.cloud.http.post(f"{DOOR}/snapshot").raise_for_status()

    @rule(score=st.sampled_from([BEST, FLAT, MEAN]))
    def change_rule(self, score: dict[str, Any]) -> None:
        answer = self.cloud.http.patch(DOOR, json={"score": score})
        assert (answer.status_code, answer.json()["score"]) == (200, score)
        self.score = score

    @rule()
    def change_key(self) -> None:
        after = next(self.keys)
        answer = self.cloud.http.post(f"{DOOR}/rekey", json=self.key.rekey(after))
        while answer.status_code == 202:
            answer = self.cloud.http.get(f"{DOOR}/rekey")
        assert answer.json()["state"] == "settled", answer.text
        self.key = after

    @rule()
    def restart(self) -> None:
        check_clock(self.cloud.services.store)
        self.teardown()
        self._open()

    def _path(self, who: str) -> str:
        return f"{DOOR}/subjects/{self.key.name(who)}"

    def living(self) -> dict[str, Stored]:
        return self._younger(self.cloud.services.store.record.clock.now())

    def _younger(self, now: datetime) -> dict[str, Stored]:
        return {uid: one for uid, one in self.stored.items() if self.max_age is None or one.at > now - self.max_age}

    def _drop_expired(self) -> None:
        """What has expired by the time that is certain, by which the service erases."""
        self._gone(self.stored.keys() - self._younger(self.cloud.services.store.record.clock.settled()).keys())

    def _gone(self, uids: set[str]) -> None:
        self.stored = {uid: one for uid, one in self.stored.items() if uid not in uids}
        self.erased |= uids

    def _index(self) -> SegmentedIndex:
        store = self.cloud.services.store
        index = store.indexes.of(store.record.gallery("door"))
        assert isinstance(index, SegmentedIndex)
        return index

    def _entries(self) -> dict[int, list[str]]:
        """The templates of each entry, in order, as the record has them."""
        mean = self.score["rule"] == "mean"
        column = subject_table.c.entry_id if mean else template_table.c.id
        query = select(column, template_table.c.uid, subject_table.c.entry_id).join(
            subject_table, subject_table.c.id == template_table.c.subject_id
        )
        found: dict[int, list[str]] = {}
        with self.cloud.services.store.record.database.read() as connection:
            for entry, uid, given in connection.execute(query.order_by(template_table.c.id)):
                assert (given is not None) == mean
                found.setdefault(entry, []).append(uid)
        return found

    @invariant()
    def the_index_holds_the_entries_of_the_record(self) -> None:
        held = {
            int(one): codes
            for segment in self._index().segments()
            for one, codes in zip(segment.ids.tolist(), segment.codes, strict=True)
            if one >= 0
        }
        entries = self._entries()
        assert {uid for uids in entries.values() for uid in uids} == self.stored.keys()
        assert held.keys() == entries.keys()
        pinned = self.cloud.services.store.record.gallery("door")
        for entry, uids in entries.items():
            ones = [self.stored[uid] for uid in uids]
            rows = [self.key.template(one.row) for one in ones]
            expected = mean_vector(self.score, rows, [one.weight for one in ones])
            assert (held[entry].astype(np.float64) - ZERO) * _STEP == pytest.approx(expected, abs=_STEP)
            place = (pinned.key_version, pinned.score_version, entry)
            codes = held[entry].tobytes()
            assert self.seen.setdefault(place, Seen(codes, frozenset(uids))) == Seen(codes, frozenset(uids)), (
                "what stands under an id never changes"
            )

    @invariant()
    def nothing_of_what_was_erased_is_left(self) -> None:
        content = b"".join(segment.codes.tobytes() for segment in self._index().segments())
        content += b"".join(file.read_bytes() for file in self.home.rglob("*") if file.is_file())
        for seen in self.seen.values():
            if seen.uids & self.erased:
                assert seen.codes not in content
                values = (np.frombuffer(seen.codes, np.uint8).astype(np.float32) - ZERO) * np.float32(_STEP)
                assert values.tobytes() not in content

    @invariant()
    def everybody_is_compared_by_the_rule(self) -> None:
        probes = [CENTERS[0], ROWS[7]]
        body = {"probes": [self.key.envelope(probe) for probe in probes], "top_k": 10}
        answer = self.cloud.http.post(f"{DOOR}/identify", json=body).json()
        people: dict[str, list[Stored]] = {}
        for one in self.living().values():
            people.setdefault(one.subject, []).append(one)
        for probe, result in zip(probes, answer["results"], strict=True):
            found = {plain(one["subject"]): one["similarity"] for one in result["candidates"]}
            for name, ones in people.items():
                rows, weights = [one.row for one in ones], [one.weight for one in ones]
                expected = plain_score(self.score, rows, probe, weights)
                told = self.cloud.http.post(f"{self._path(name)}/verify", json={"probe": self.key.envelope(probe)})
                assert told.json()["similarity"] == pytest.approx(expected, abs=1e-5)
                assert (name in found) == (told.json()["decision"] == "match")
            assert found.keys() <= people.keys()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four rows, so that a few people fill one."""
    monkeypatch.setattr("cloud_service.index.flat._MOST", 4)
    monkeypatch.setattr("cloud_service.index.flat._LEAST", 2)
    monkeypatch.setattr("cloud_service.entries.queries.BATCH_BYTES", 5 * 4 * DIM)


@pytest.mark.slow(reason="a long random life")
@pytest.mark.usefixtures("small_segments")
def test_the_index_is_the_record_s_and_erased_means_are_nowhere(tmp_path: Path) -> None:
    deep = hypothesis_settings.get_current_profile_name() == "deep"
    machine = type("Driven", (Life,), {"home": tmp_path / "cloud"})
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=300 if deep else 5,
            stateful_step_count=40 if deep else 22,
            deadline=None,
            phases=[Phase.reuse, Phase.generate, *([Phase.shrink] if deep else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )
