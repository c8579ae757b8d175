"""The rule of a gallery is changed in place: whoever asks meanwhile gets a score by one rule or the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cloud_service.index.faiss_indexes import FaissIndexes
from cloud_service.index.flat import SegmentedIndex
from cloud_service.settings import IndexSettings, Settings
from shared.wire.common import SubjectScore
from tests.cloud_service.entries.reference import BEST, FLAT, MEAN, plain_score
from tests.support.cloud_client import Cloud, assert_problem, contract_of, random_units, towards, unit
from tests.support.sealed import Key

PEOPLE, DIM = 12, 32
DOOR = "/v1/galleries/door"
CENTERS = random_units(91, PEOPLE, DIM)
ROWS = unit(CENTERS[:, np.newaxis] + 0.8 * random_units(92, PEOPLE * 3, DIM).reshape(PEOPLE, 3, DIM))
RULES = {"best": BEST, "mean": MEAN}

pytestmark = pytest.mark.both_engines


def _filled(cloud: Cloud, score: dict[str, Any]) -> None:
    assert cloud.put_gallery(contract=contract_of(DIM), tau=0.2, score=score).status_code == 201
    for number, rows in enumerate(ROWS):
        assert cloud.enroll(f"s{number}", list(rows)).status_code == 201


def _change(cloud: Cloud, score: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = cloud.http.patch(DOOR, json={"score": score}, **options)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def _expected(score: dict[str, Any], number: int, probe: np.ndarray) -> float:
    return plain_score(score, list(ROWS[number]), probe)


def _agree(cloud: Cloud, score: dict[str, Any]) -> None:
    """Each person is found with the score of this rule, and the index has the entries of this rule."""
    for number, probe in enumerate(CENTERS):
        [best, *_] = cloud.identify(probe).json()["results"][0]["candidates"]
        assert best == {"subject": f"s{number}", "similarity": pytest.approx(_expected(score, number, probe), abs=2e-7)}
        assert cloud.verify(f"s{number}", probe).json()["similarity"] == best["similarity"]
    entries = cloud.http.get(f"{DOOR}/stats").json()["entries"]
    assert entries == (PEOPLE if score["rule"] == "mean" else 3 * PEOPLE)


def test_a_rule_is_changed_and_audited_and_the_same_again_changes_nothing(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        _filled(cloud, BEST)
        _agree(cloud, BEST)
        for score in (MEAN, FLAT, MEAN, MEAN, BEST, BEST, MEAN):
            assert _change(cloud, score)["score"] == score
            _agree(cloud, score)
        told = [one for one in cloud.http.get("/v1/audit").json()["items"] if one["action"] == "score_changed"]
        assert [one["details"]["rule"] for one in told] == ["mean", "mean", "mean", "best", "mean"]
        assert [one["details"]["exponents"] for one in told] == ["0.5 0.6 0.7", "", "0.5 0.6 0.7", "", "0.5 0.6 0.7"]
    with Cloud(settings) as cloud:
        assert cloud.http.get(DOOR).json()["score"] == MEAN
        _agree(cloud, MEAN)


def test_what_cannot_be_a_rule_is_refused(client: Cloud) -> None:
    for score in ({"rule": "worst"}, {"rule": "best", "exponents": [0.5]}, {"rule": "mean", "exponents": [1.1]}, {}):
        assert client.http.patch(DOOR, json={"score": score}).status_code == 422
    assert_problem(client.http.patch("/v1/galleries/none", json={"score": BEST}), 404, "not-found", "unknown_gallery")
    assert client.http.get(DOOR).json()["score"] == FLAT


def test_no_rule_is_changed_while_a_key_is(settings: Settings) -> None:
    old, new = Key(DIM, 1, verify_only=True), Key(DIM, 2, verify_only=True)
    with Cloud(settings) as cloud:
        cloud.put_gallery(contract=old.contract, score=MEAN)
        for name in ("anna", "ben"):
            sent = [{"id": f"{name:0<32}".encode().hex()[:32], "template": old.envelope(CENTERS[0], name)}]
            cloud.http.post(f"{DOOR}/subjects/{old.name(name)}/templates", json={"templates": sent}).raise_for_status()
        cloud.http.post(f"{DOOR}/rekey", json=old.rekey(new, "anna")).raise_for_status()
        answer = cloud.http.patch(DOOR, json={"score": BEST})
        assert_problem(answer, 409, "conflict", "rekey_under_way")
        cloud.http.delete(f"{DOOR}/rekey").raise_for_status()
        assert _change(cloud, BEST)["score"] == BEST


def test_no_answer_mixes_two_rules(settings: Settings) -> None:
    with Cloud(settings) as cloud:
        _filled(cloud, BEST)
        over = threading.Event()

        def right(answer: dict[str, Any], similarity: float, number: int, probe: np.ndarray) -> None:
            rule = RULES[answer["score_rule"]]
            assert similarity == pytest.approx(_expected(rule, number, probe), abs=2e-7)

        def search(seed: int) -> int:
            asked = 0
            while not over.is_set():
                number = (seed + asked) % PEOPLE
                answer = cloud.identify(CENTERS[number])
                asked += 1
                if answer.status_code == 503:  # to be sent again
                    continue
                assert answer.status_code == 200, answer.text
                [best, *_] = answer.json()["results"][0]["candidates"]
                assert best["subject"] == f"s{number}"
                right(answer.json(), best["similarity"], number, CENTERS[number])
            return asked

        def compare(seed: int) -> int:
            asked = 0
            while not over.is_set():
                number, asked = (seed + asked) % PEOPLE, asked + 1
                answer = cloud.verify(f"s{number}", CENTERS[number]).json()
                right(answer, answer["similarity"], number, CENTERS[number])
            return asked

        with ThreadPoolExecutor(3) as threads:
            others = [threads.submit(search, 0), threads.submit(search, 5), threads.submit(compare, 3)]
            try:
                for turn in range(8):
                    _change(cloud, MEAN if turn % 2 == 0 else BEST)
                    time.sleep(0.02)
            finally:
                over.set()
            assert min(other.result() for other in others) > 3


def test_a_search_that_a_change_of_rule_overtakes_begins_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cloud(settings) as cloud:
        _filled(cloud, BEST)
        search: Callable[..., Any] = SegmentedIndex.search
        for score in (MEAN, BEST, FLAT, MEAN):
            changed: list[bool] = []

            def overtaken(self: SegmentedIndex, *words: Any, score: Any = score, changed: Any = changed) -> Any:
                hits = search(self, *words)
                if not changed:
                    changed.append(True)
                    store = cloud.services.store
                    store.change_score("door", SubjectScore.model_validate(score), None)
                return hits

            with monkeypatch.context() as patched:
                patched.setattr(SegmentedIndex, "search", overtaken)
                answer = cloud.identify(CENTERS[4]).json()
            assert answer["score_rule"] == score["rule"]
            [best, *_] = answer["results"][0]["candidates"]
            assert best["similarity"] == pytest.approx(_expected(score, 4, CENTERS[4]), abs=2e-7)


def test_a_crash_after_the_change_leaves_the_new_rule(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)})

    def crash(*_words: Any) -> None:
        raise MemoryError

    with Cloud(keeping) as cloud:
        _filled(cloud, BEST)
        with monkeypatch.context() as patched:
            patched.setattr(FaissIndexes, "regrouped", crash)
            assert_problem(cloud.http.patch(DOOR, json={"score": MEAN}), 500, "unexpected-error")
        _agree(cloud, MEAN)  # the index that is asked for is made at its first use
    with Cloud(keeping) as cloud:
        _agree(cloud, MEAN)


def test_files_of_the_rule_before_are_gone_and_new_ones_are_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_service.index.flat._MOST", 8)
    monkeypatch.setattr("cloud_service.index.flat._LEAST", 4)
    keeping = settings.model_copy(update={"index": IndexSettings(snapshot_interval_s=3600, close_timeout_s=0)})
    with Cloud(keeping) as cloud:
        _filled(cloud, BEST)
        assert cloud.http.post(f"{DOOR}/snapshot").json() == {"files": 4, "entries": 32}
        before = set((settings.home / "index").iterdir())
        _change(cloud, MEAN)
        assert not any(file.exists() for file in before)
        assert cloud.http.post(f"{DOOR}/snapshot").json() == {"files": 1, "entries": 8}
    read: list[int] = []
    add: Callable[..., None] = SegmentedIndex.add

    def counted(self: SegmentedIndex, ids: np.ndarray, rows: np.ndarray) -> None:
        read.append(len(ids))
        add(self, ids, rows)

    monkeypatch.setattr(SegmentedIndex, "add", counted)
    with Cloud(keeping) as cloud:
        assert sum(read) == PEOPLE - 8
        _agree(cloud, MEAN)


def test_a_file_that_was_being_written_by_the_rule_before_is_not_trusted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One template a subject, so that both rules have the same ids: only the version tells them apart."""
    monkeypatch.setattr("cloud_service.index.flat._MOST", 4)
    monkeypatch.setattr("cloud_service.index.flat._LEAST", 4)
    with Cloud(settings) as cloud:
        cloud.put_gallery(score=BEST)
        for axis in range(4):
            cloud.enroll(f"s{axis}", [towards(axis, 1.0)])
        store = cloud.services.store
        before = store.record.gallery("door")
        index = store.indexes.of(before)
        assert isinstance(store.indexes, FaissIndexes)
        [full] = index.full()
        _change(cloud, MEAN)
        assert store.indexes._snapshots.save(before, full, index.segments()) is False
        assert sorted(full.ids.tolist()) == [1, 2, 3, 4], "as the entries are now"
        _change(cloud, BEST)
        assert store.indexes._snapshots.save(before, full, index.segments()) is False
