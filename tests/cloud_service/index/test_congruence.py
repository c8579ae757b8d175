"""The same operations on FAISS, on Milvus and on a plain model give the same decisions, candidates and refusals.

``pytest --hypothesis-profile=deep`` tries many more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from numpy.typing import NDArray

from cloud_service.settings import IndexSettings, Settings
from tests.cloud_service.entries.reference import BEST, FLAT, MEAN, plain_score
from tests.support.cloud_client import Cloud, contract_of, enveloped, towards
from tests.support.milvus_server import Milvus as Server

DIM = 8
TAU = 0.5
# Two values each at most are not zero, so that every product's sum is the same in whatever order it is taken.
COSINES = [1.0, 0.9, 0.7, 0.5 + 1e-4, 0.5 + 2**-24, 0.5, 0.5 - 2**-25, 0.5 - 1e-4, 0.3, -0.4]
AXES = 3
VECTORS = [towards(axis, cosine, DIM) for axis in range(AXES) for cosine in COSINES]
SUBJECTS = ["anna", "ben", "carl", "dora", "emil"]
_examples = count()


@dataclass
class Model:
    """A gallery as plain data: by id of a template whose it is and what."""

    templates: dict[str, tuple[str, int]] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=lambda: dict(BEST))

    def enroll(self, subject: str, sent: dict[str, int]) -> int:
        if any(uid in self.templates and self.templates[uid][0] != subject for uid in sent):
            return 409
        self.templates = {uid: (subject, at) for uid, at in sent.items()} | self.templates
        return 201

    def of(self, subject: str) -> dict[str, int]:
        return {uid: at for uid, (name, at) in self.templates.items() if name == subject}

    def best(self, probe: int) -> dict[str, float]:
        people: dict[str, list[NDArray[np.float32]]] = {}
        for name, at in self.templates.values():
            people.setdefault(name, []).append(VECTORS[at])
        return {
            name: min(1.0, max(-1.0, plain_score(self.score, rows, VECTORS[probe]))) for name, rows in people.items()
        }

    def identify(self, probe: int, top_k: int) -> list[tuple[str, float]]:
        reach = [(name, value) for name, value in self.best(probe).items() if value >= TAU]
        return sorted(reach, key=lambda one: (-one[1], one[0]))[:top_k]


class Congruence(RuleBasedStateMachine):
    """Two services and the model, driven alike."""

    clouds: tuple[Cloud, Cloud]

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"g{next(_examples)}"
        self.galleries: dict[str, Model] = {}
        self.uids = count(1)
        self.changed = [False, False]
        self.looks = 0

    def both(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """What both answered, which must be the same but for moments, request ids, and when erased bytes are gone."""
        answers = [cloud.http.request(method, f"/v1/galleries/{path}", **options) for cloud in self.clouds]
        plain = [(_done(answer.status_code), _timeless(answer.json())) for answer in answers]
        assert plain[0] == plain[1]
        return plain[0]

    @initialize()
    def begin(self) -> None:
        self.make(0)

    def named(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    @rule(number=st.integers(0, 1))
    def make(self, number: int) -> None:
        name = self.named(number)
        score = (BEST, MEAN)[number]
        spec = {"contract": contract_of(DIM).model_dump(mode="json"), "threshold": {"cosine": TAU, "fmr": 0.001}}
        spec["score"] = score
        code, _ = self.both("PUT", name, json=spec)
        assert code == (200 if name in self.galleries else 201)
        self.galleries.setdefault(name, Model(score=score))

    @rule(number=st.integers(0, 1), score=st.sampled_from([BEST, MEAN, FLAT]))
    def change_rule(self, number: int, score: dict[str, Any]) -> None:
        self.changed[number] = True
        code, _ = self.both("PATCH", self.named(number), json={"score": score})
        assert code == (200 if self.named(number) in self.galleries else 404)
        if code == 200:
            self.galleries[self.named(number)].score = score

    def enrolled(self, name: str, subject: str, sent: dict[str, int]) -> None:
        self.changed[int(name[-1])] = True
        body = {"templates": [{"id": uid, "template": enveloped(VECTORS[at])} for uid, at in sent.items()]}
        code, answer = self.both("POST", f"{name}/subjects/{subject}/templates", json=body)
        if name not in self.galleries:
            assert code == 404
            return
        assert code == self.galleries[name].enroll(subject, sent)
        if code == 201:
            assert [one["id"] for one in answer["templates"]] == list(sent)

    @rule(
        number=st.integers(0, 1),
        subject=st.sampled_from(SUBJECTS),
        axis=st.integers(0, AXES - 1),
        chosen=st.lists(st.integers(0, len(COSINES) - 1), min_size=1, max_size=10),
    )
    def enroll(self, number: int, subject: str, axis: int, chosen: list[int]) -> None:
        sent = {f"{next(self.uids):032x}": axis * len(COSINES) + at for at in chosen}
        self.enrolled(self.named(number), subject, sent)

    @precondition(lambda self: any(model.templates for model in self.galleries.values()))
    @rule(data=st.data(), changed=st.sampled_from(["nothing", "nothing", "subject", "vector", "one more"]))
    def enroll_again(self, data: st.DataObject, changed: str) -> None:
        name = data.draw(st.sampled_from([one for one, model in self.galleries.items() if model.templates]))
        model = self.galleries[name]
        uid = data.draw(st.sampled_from(sorted(model.templates)))
        subject, at = model.templates[uid]
        sent = {uid: (at + 1) % len(VECTORS) if changed == "vector" else at}
        if changed == "one more":
            sent[f"{next(self.uids):032x}"] = at
        self.enrolled(name, "stranger" if changed == "subject" else subject, sent)

    @rule(number=st.integers(0, 1), subject=st.sampled_from(SUBJECTS), data=st.data())
    def erase_template(self, number: int, subject: str, data: st.DataObject) -> None:
        self.changed[number] = True
        name = self.named(number)
        model = self.galleries.get(name, Model())
        uid = data.draw(st.sampled_from([*sorted(model.of(subject)), "f" * 32]))
        code, _ = self.both("DELETE", f"{name}/subjects/{subject}/templates/{uid}")
        assert code == (200 if uid in model.of(subject) else 404)
        if code == 200:
            del model.templates[uid]

    @rule(number=st.integers(0, 1), subject=st.sampled_from(SUBJECTS))
    def erase_subject(self, number: int, subject: str) -> None:
        self.changed[number] = True
        name = self.named(number)
        model = self.galleries.get(name, Model())
        gone = model.of(subject)
        code, _ = self.both("DELETE", f"{name}/subjects/{subject}")
        assert code == (200 if gone else 404)
        for uid in gone:
            del model.templates[uid]

    @rule(number=st.integers(0, 1), chance=st.integers(0, 3))
    def erase_gallery(self, number: int, chance: int) -> None:
        if chance:  # less often than the rest
            return
        self.changed[number] = True
        name = self.named(number)
        code, _ = self.both("DELETE", name)
        assert code == (200 if self.galleries.pop(name, None) is not None else 404)

    @rule(number=st.integers(0, 1), subject=st.sampled_from(SUBJECTS), probe=st.integers(0, len(VECTORS) - 1))
    def verify(self, number: int, subject: str, probe: int) -> None:
        path = f"{self.named(number)}/subjects/{subject}/verify"
        code, answer = self.both("POST", path, json={"probe": enveloped(VECTORS[probe])})
        best = self.galleries.get(self.named(number), Model()).best(probe).get(subject)
        assert code == (404 if best is None else 200)
        if best is not None:
            assert abs(best - TAU) < 1e-6 or answer["decision"] == ("match" if best >= TAU else "no_match")
            assert abs(answer["similarity"] - best) <= 1e-4

    @rule(number=st.integers(0, 1), top_k=st.integers(1, 6))
    def identify(self, number: int, top_k: int) -> None:
        """Everybody who can be asked for at once."""
        name = self.named(number)
        body = {"probes": [enveloped(probe) for probe in VECTORS], "top_k": top_k}
        code, answer = self.both("POST", f"{name}/identify", json=body)
        assert code == (200 if name in self.galleries else 404)
        for probe, result in zip(range(len(VECTORS)), answer.get("results", []), strict=code == 200):
            model = self.galleries[name]
            if model.score["rule"] == "mean":  # sums of rounded values: what is at tau may be on either side of it
                best = model.best(probe)
                assert all(abs(one["similarity"] - best[one["subject"]]) <= 1e-4 for one in result["candidates"])
                assert len(result["candidates"]) >= min(top_k, sum(value >= TAU + 1e-6 for value in best.values()))
                continue
            expected = model.identify(probe, top_k)
            assert [one["subject"] for one in result["candidates"]] == [subject for subject, _ in expected]
            for one, (_, value) in zip(result["candidates"], expected, strict=True):
                assert abs(one["similarity"] - value) <= 1e-4
            assert result["decision"] == ("match" if expected else "unknown")

    @invariant()
    def as_many_and_the_same_people(self) -> None:
        for number in range(2):
            if self.changed[number]:
                self.identify(number, 1 + self.looks % 3)
                self.looks += 1
                self.changed[number] = False
        for name, model in self.galleries.items():
            code, answer = self.both("GET", name)
            subjects = {subject for subject, _ in model.templates.values()}
            assert (code, answer["subjects"], answer["templates"]) == (200, len(subjects), len(model.templates))

    def teardown(self) -> None:
        for name in list(self.galleries):
            self.both("DELETE", name)


def _done(status: int) -> int:
    """202 is an erasure whose bytes are pending, as they always are in Milvus."""
    return 200 if status == 202 else status


def _timeless(body: Any) -> Any:
    if isinstance(body, dict):
        passing = {"created_at", "request_id", "receipt", "pending"}
        return {name: _timeless(value) for name, value in body.items() if name not in passing}
    return [_timeless(one) for one in body] if isinstance(body, list) else body


@pytest.fixture
def clouds(tmp_path: Path, shared_milvus: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cloud, Cloud]]:
    for name, value in (("_LEAST_WIDTH", 1), ("_WIDENING", 2)):  # so that looks are widened
        monkeypatch.setattr(f"cloud_service.matching.{name}", value)
    local = Settings(home=tmp_path / "local")
    remote = Settings(home=tmp_path / "remote", index=IndexSettings(url=shared_milvus.url))
    with Cloud(local) as faiss, Cloud(remote) as milvus:
        yield faiss, milvus


@pytest.mark.slow(reason="Milvus, driven at random")
def test_faiss_and_milvus_answer_alike(clouds: tuple[Cloud, Cloud]) -> None:
    deep = settings.get_current_profile_name() == "deep"
    machine = type("Driven", (Congruence,), {"clouds": clouds})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200 if deep else 8,
            stateful_step_count=50 if deep else 24,
            deadline=None,
            phases=[Phase.reuse, Phase.generate, *([Phase.shrink] if deep else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )
