"""Callers that change and search a cloud until it is killed, each with subjects of its own."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import httpx
import numpy as np

from shared.wire.cloud import CONTRACT_HEADER
from tests.load.crash.model import (
    DIM,
    SUBJECTS,
    TAU,
    Gallery,
    Model,
    Seen,
    Unsure,
    contract_of,
    sealed_names,
    subject_of,
)

COMMON: Final = "common"
_CHANGES: Final = ("enroll", "enroll", "enroll", "erase subject", "erase template", "gallery", "move", "look", "look")
# A change of key is asked for again where somebody came meanwhile whose name was not known.
_ASKED: Final = 20


class Wrong(Exception):
    """The service gave a wrong answer while it ran."""


class Caller:
    """A caller with subjects of its own in the common gallery, and a gallery of its own.

    Args:
        number: of the caller.
        model: what must hold; this caller alone changes its part.
        chance: decides what is done next.
        client: to the service.
    """

    def __init__(self, number: int, model: Model, chance: random.Random, client: httpx.Client) -> None:
        self._number = number
        self._model = model
        self._chance = chance
        self._client = client
        self._own = f"own-{number}"
        # Left alone until the next start: their state is unknown.
        self._left_alone: set[tuple[str, str | None]] = set()
        self.error: BaseException | None = None

    def work(self, over: threading.Event) -> None:
        """Changes and searches until the load ends or the service is killed."""
        try:
            while not over.is_set():
                self._change()
        except httpx.TransportError:
            pass  # it was killed: changes without an answer are unsure
        except BaseException as error:
            self.error = error

    def _change(self) -> None:
        what = self._chance.choice(_CHANGES)
        if what == "gallery":
            self._make_or_erase_gallery()
            return
        gallery = self._own if self._own in self._model.galleries and self._chance.random() < 0.3 else COMMON
        if (gallery, None) in self._left_alone:
            return
        mine = {
            name: templates
            for name, templates in self._model.galleries[gallery].subjects.items()
            if name.startswith(f"s{self._number}-") and (gallery, name) not in self._left_alone
        }
        if what == "enroll" or not mine:
            self._enroll(gallery)
            return
        subject = self._chance.choice(sorted(mine))
        if what == "move":
            self._move(gallery, subject, mine[subject])
        elif what == "look":
            self._look(gallery, subject, mine[subject])
        elif what == "erase template":
            self._erase(gallery, subject, self._chance.choice(sorted(mine[subject])))
        else:
            self._erase(gallery, subject)

    def _enroll(self, gallery: str) -> None:
        subject = subject_of(self._number, self._chance.randrange(SUBJECTS))
        if (gallery, subject) in self._left_alone:
            return
        epoch = self._model.galleries[gallery].epoch
        numbers = [self._chance.randrange(1 << 48) for _ in range(self._chance.randint(1, 3))]
        templates = {f"{number:032x}": number for number in numbers}
        envelope = self._model.vectors.envelope
        body = {"templates": [{"id": uid, "template": envelope(each, epoch)} for uid, each in templates.items()]}
        path = f"{_path(gallery, subject, epoch)}/templates"
        self._ask(
            Unsure(
                f"enroll {len(templates)} of {subject}",
                gallery,
                subject,
                lambda seen: _all_or_none(templates.keys(), seen, gallery, subject),
                partial(self._model.enrolled, gallery, subject, templates),
                partial(self._model.gone.extend, [(gallery, number) for number in numbers]),
            ),
            partial(self._client.post, path, json=body),
        )

    def _erase(self, gallery: str, subject: str, uid: str | None = None) -> None:
        held = self._model.galleries[gallery].subjects[subject]
        which = set(held) if uid is None else {uid}
        epoch = self._model.galleries[gallery].epoch
        path = _path(gallery, subject, epoch)
        numbers = [held[each] for each in sorted(which)]
        done = self._ask(
            Unsure(
                f"erase {len(which)} of {subject}",
                gallery,
                subject,
                lambda seen: _not(_all_or_none(which, seen, gallery, subject)),
                partial(self._model.erased, gallery, subject, uid),
            ),
            partial(self._client.delete, path if uid is None else f"{path}/templates/{uid}", headers=_under(epoch)),
        )
        if done and self._chance.random() < 0.3:
            self._must_not_find(gallery, numbers[0])

    def _move(self, gallery: str, subject: str, held: dict[str, int]) -> None:
        """Renames a subject, merges it with another one, or moves a template."""
        to = subject_of(self._number, self._chance.randrange(SUBJECTS))
        if to == subject or (gallery, to) in self._left_alone:
            return
        one = [self._chance.choice(sorted(held))] if self._chance.random() < 0.5 else None
        which = set(held) if one is None else set(one)
        epoch = self._model.galleries[gallery].epoch
        body = {"to": sealed_names(epoch)[to], "onto": "either", "templates": one}
        self._ask(
            Unsure(
                f"move {len(which)} of {subject} to {to}",
                gallery,
                subject,
                lambda seen: _moved(which, seen.subjects.get(gallery, {}), subject, to),
                partial(self._model.moved, gallery, subject, to, which),
                other=to,
            ),
            partial(self._client.post, f"{_path(gallery, subject, epoch)}/move", json=body, headers=_under(epoch)),
        )

    def _make_or_erase_gallery(self) -> None:
        if (self._own, None) in self._left_alone or any(name == self._own for name, _ in self._left_alone):
            return
        path = f"/v1/galleries/{self._own}"
        if self._own in self._model.galleries:
            self._ask(
                Unsure(
                    "erase the gallery",
                    self._own,
                    None,
                    lambda seen: self._own not in seen.digests,
                    partial(self._model.erased, self._own),
                ),
                partial(self._client.delete, path),
            )
        else:
            self._ask(
                Unsure(
                    "make the gallery",
                    self._own,
                    None,
                    lambda seen: self._own in seen.digests,
                    partial(self._model.galleries.__setitem__, self._own, Gallery()),
                ),
                partial(self._client.put, path, json=spec()),
            )

    def _look(self, gallery: str, subject: str, templates: dict[str, int]) -> None:
        epoch = self._model.galleries[gallery].epoch
        number = self._chance.choice(sorted(templates.values()))
        probe = self._model.vectors.envelope(number, epoch)
        at = f"/v1/galleries/{gallery}"
        verified = self._client.post(f"{_path(gallery, subject, epoch)}/verify", json={"probe": probe})
        identified = self._client.post(f"{at}/identify", json={"probes": [probe], "top_k": 1})
        for answer in (verified, identified):
            if answer.status_code not in {httpx.codes.OK, httpx.codes.CONFLICT, httpx.codes.TOO_MANY_REQUESTS}:
                raise Wrong(f"a look at {gallery}/{subject} was answered with {answer.status_code}: {answer.text}")
        if verified.is_success and verified.json()["decision"] != "match":
            raise Wrong(f"{gallery}/{subject} does not verify though it was acknowledged")
        if identified.is_success:
            found = [one["subject"] for one in identified.json()["results"][0]["candidates"]]
            if found != [sealed_names(epoch)[subject]]:
                raise Wrong(f"{gallery}/{subject} is not identified though it was acknowledged")

    def _must_not_find(self, gallery: str, number: int) -> None:
        probe = self._model.vectors.envelope(number, self._model.galleries[gallery].epoch)
        answer = self._client.post(f"/v1/galleries/{gallery}/identify", json={"probes": [probe], "top_k": 1})
        if answer.status_code == httpx.codes.OK and answer.json()["results"][0]["candidates"]:
            raise Wrong(f"a template of {gallery} is found though its erasure was acknowledged")

    def rekey(self, over: threading.Event, pause: float) -> None:
        """Changes the key of the common gallery, over and over, with a pause between."""
        try:
            while not over.wait(pause) and (COMMON, None) not in self._left_alone:
                self._rekey_once()
        except httpx.TransportError:
            pass
        except BaseException as error:
            self.error = error

    def _rekey_once(self) -> None:
        gallery = self._model.galleries[COMMON]
        vectors, new = self._model.vectors, gallery.epoch + 1
        matrix = vectors.key(new) @ vectors.key(gallery.epoch).T
        data = base64.b64encode(np.ascontiguousarray(matrix, "<f8").tobytes()).decode()
        turns = [{"matrix": {"dim": DIM, "dtype": "float64", "data": data}}]
        body = {
            "contract": contract_of(new).model_dump(mode="json"),
            "replaces": contract_of(gallery.epoch).digest(),
            "rotations": turns,
            "names": [
                {"subject": sealed, "sealed": sealed_names(new)[name]}
                for name, sealed in sealed_names(gallery.epoch).items()
            ],
        }

        def send() -> httpx.Response:
            for _ in range(_ASKED):
                answer = self._client.post(f"/v1/galleries/{COMMON}/rekey", json=body)
                if answer.status_code != httpx.codes.ACCEPTED or answer.json()["state"] != "staging":
                    break
            return answer

        self._ask(
            Unsure(
                f"change to epoch {new}",
                COMMON,
                None,
                lambda seen: seen.digests.get(COMMON) == contract_of(new).digest(),
                partial(setattr, gallery, "epoch", new),
            ),
            send,
        )

    def _ask(self, unsure: Unsure, send: Callable[[], httpx.Response]) -> bool:
        """Sends a change; returns whether it was acknowledged. A change without an answer is left alone."""
        try:
            answer = send()
        except httpx.TransportError:
            self._model.unsure.append(unsure)
            raise
        status = answer.status_code
        if status in {httpx.codes.OK, httpx.codes.CREATED}:
            unsure.accept()
            self._model.acknowledged += 1
            return True
        if status == httpx.codes.CONFLICT:  # the common gallery's key was changed between
            unsure.deny()
        elif status in {httpx.codes.ACCEPTED, httpx.codes.TOO_MANY_REQUESTS}:
            self._model.unsure.append(unsure)
            self._left_alone |= {(unsure.gallery, unsure.subject), (unsure.gallery, unsure.other or unsure.subject)}
        else:
            raise Wrong(f"{unsure.what} in {unsure.gallery} was answered with {status}: {answer.text}")
        return False


def spec() -> dict[str, Any]:
    """The request body that creates a gallery."""
    return {
        "contract": contract_of(0).model_dump(mode="json"),
        "threshold": {"cosine": TAU, "fmr": 0.001},
        "score": {"rule": "best"},
        "sealed_names": True,
    }


def _path(gallery: str, subject: str, epoch: int) -> str:
    return f"/v1/galleries/{gallery}/subjects/{sealed_names(epoch)[subject]}"


def _under(epoch: int) -> dict[str, str]:
    """The header by which a late name is refused, and not said to be nobody's."""
    return {CONTRACT_HEADER: contract_of(epoch).digest()}


def _moved(uids: Iterable[str], subjects: dict[str, set[str]], subject: str, to: str) -> bool | None:
    there, back = ({uid for uid in uids if uid in subjects.get(name, set())} for name in (to, subject))
    return None if (there and back) or not (there or back) else bool(there)


def _all_or_none(uids: Iterable[str], seen: Seen, gallery: str, subject: str) -> bool | None:
    there = [uid in seen.subjects.get(gallery, {}).get(subject, set()) for uid in uids]
    return None if any(there) and not all(there) else all(there)


def _not(made: bool | None) -> bool | None:
    return None if made is None else not made
