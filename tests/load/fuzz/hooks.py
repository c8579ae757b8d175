"""Hooks of schemathesis: valid templates, pictures and names, and checks that a schema cannot express.

A schema describes a template's envelope, but neither the contract of a gallery nor a picture of a face, so requests
that follow from it alone are refused at once. Here, most of the well-formed requests are changed to name existing
galleries and subjects, with templates that fit, and some that have one fault.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
import random
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
import schemathesis
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

Case = schemathesis.Case[Any]

_PICTURES: Final = Path(__file__).parents[3] / "tests" / "pictures"
_FLOATS: Final = "application/octet-stream"
_EDGE_DIM: Final = 128
_PEOPLE: Final = 4
_UNIT: Final = 1e-4
# The share of well-formed requests that stay as they were drawn.
_AS_DRAWN: Final = 0.1
_BROKEN: Final = 0.2


def _pictures() -> st.SearchStrategy[bytes]:
    """Faces, most of them sound; some cut off, too small or with a byte changed; and bytes that are no picture."""
    whole = [_small(path, 480) for path in sorted(_PICTURES.glob("*/*.*"))]
    faces = st.sampled_from(whole)
    tiny = st.sampled_from([_small(path, 24) for path in sorted(_PICTURES.glob("obama/*.*"))])
    cut = st.builds(lambda picture, share: picture[: int(share * len(picture))], faces, st.floats(0, 1))
    changed = st.builds(_changed, faces, st.integers(0), st.integers(0, 255))
    return st.one_of(faces, faces, faces, faces, tiny, cut, changed, st.binary(max_size=200))


def _small(path: Path, side: int) -> bytes:
    with Image.open(path) as picture:
        picture.thumbnail((side, side))
        file = io.BytesIO()
        picture.convert("RGB").save(file, "WEBP" if path.stem == "speech" else "JPEG", quality=90)
    return file.getvalue()


def _changed(picture: bytes, at: int, value: int) -> bytes:
    at %= len(picture)
    return picture[:at] + bytes([value]) + picture[at + 1 :]


schemathesis.openapi.format("binary", _pictures())
schemathesis.openapi.format("byte", _pictures().map(lambda picture: base64.b64encode(picture).decode()))


@dataclass
class _Gallery:
    """A gallery that was made: its contract, and the ids of its faces or templates."""

    digest: str
    dim: int
    subjects: dict[str, list[str]] = field(default_factory=dict)


# Made before the run and never erased as a whole, so that there is always something to find.
STANDING: Final = os.environ["PATRONUS_FUZZ_GALLERY"]
# Another one, whose people may expire.
AGING: Final = f"aging-{STANDING}"
_galleries: dict[str, _Gallery] = {
    STANDING: _Gallery(
        os.environ["PATRONUS_FUZZ_CONTRACT"],
        int(os.environ["PATRONUS_FUZZ_DIM"]),
        json.loads(os.environ["PATRONUS_FUZZ_SUBJECTS"]),
    )
}
for _name in os.environ["PATRONUS_FUZZ_SPARE"].split():  # to be erased
    _galleries[_name] = _Gallery(os.environ["PATRONUS_FUZZ_CONTRACT"], int(os.environ["PATRONUS_FUZZ_DIM"]))
_NO_SUBJECT: Final[dict[str, list[str]]] = {}
# Numbers of erasures, with their galleries.
_receipts: list[tuple[str, int]] = []
# Requests of which the edge keeps for a minute what it sent to the cloud, the newest last.
_recorded: list[str] = []
_RECORD: Final = "X-Patronus-Record"


def _well_formed(case: Case) -> bool:
    """Whether every part of a request fits the schema; in a chain of requests, one part may not."""
    meta = case.meta
    if meta is None or not meta.generation.mode.is_positive:
        return False
    return all(part.mode.is_positive for part in meta.components.values())


def _choice(case: Case) -> random.Random:
    """A random generator seeded by the case: the same case draws the same."""
    drawn = f"{case.operation.label} {case.path_parameters} {case.query} {case.body!r}"
    return random.Random(zlib.crc32(drawn.encode("utf-8", "replace")))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Changes a well-formed request to name existing galleries and subjects."""
    at = case.path_parameters or {}
    if case.method.upper() == "DELETE" and _is_of_a(case, "gallery") and at.get("gallery") in {STANDING, AGING}:
        case.path_parameters = {"gallery": "another"}
    if case.operation.path.endswith("/retention") and at.get("gallery") == STANDING:
        case.path_parameters = {"gallery": AGING}
    if not _well_formed(case):
        return
    chance = _choice(case)
    if case.method.upper() == "DELETE" and _is_of_a(case, "gallery"):
        _erasable(case, chance)
    if at and not (_is_of_a(case, "gallery") and case.method.upper() in {"PUT", "DELETE"}):
        _where(case, chance)
    if case.operation.path.endswith("/retention") and (case.path_parameters or {}).get("gallery") == STANDING:
        case.path_parameters = {"gallery": AGING}
    _what(case, _galleries.get((case.path_parameters or {}).get("gallery", "")), chance)
    if "gallery" in case.query and chance.random() > _AS_DRAWN:
        case.query = {**case.query, "gallery": chance.choice(sorted(_galleries))}


def _what(case: Case, gallery: _Gallery | None, chance: random.Random) -> None:
    """Templates under the gallery's contract, and embeddings of a length that the edge takes."""
    body: Any = case.body
    if isinstance(body, dict):
        if chance.random() > _AS_DRAWN:
            _of_subjects(case, gallery, chance)
        envelopes = _envelopes(body)
        if envelopes and gallery is not None and chance.random() > _AS_DRAWN:
            for envelope in envelopes:
                envelope.update(_enveloped(gallery, _vector(gallery.dim, chance)))
            if chance.random() < _BROKEN:
                row = _vector(gallery.dim, chance)
                wrong = [row * np.float32(1.01), row * np.float32(np.nan), row * 0, row[:-1], np.append(row, row[:1])]
                chance.choice(envelopes).update(_enveloped(gallery, chance.choice(wrong)))
        for embedding in body.get("embeddings", []):
            values = _vector(_EDGE_DIM, chance).tolist()
            if isinstance(embedding, dict):
                embedding["values"] = values
                if "subject" in embedding:  # of many: names that can be, and no face twice
                    named = {"subject": f"bulk-{chance.randrange(_PEOPLE)}", "face": f"{chance.getrandbits(64):x}"}
                    embedding.update(named)
            else:
                embedding[:] = values
    if case.media_type == _FLOATS and chance.random() > _AS_DRAWN:
        rows = [_vector(_EDGE_DIM, chance) for _ in range(chance.randint(1, 4))]
        case.body = np.stack(rows).astype("<f4").tobytes()
        case.query = {**case.query, "dim": _EDGE_DIM}


def _is_of_a(case: Case, what: str) -> bool:
    """Whether an operation is of a gallery (or so) itself, and not of something in it."""
    return bool(case.operation.path.endswith(f"/{{{what}}}"))


def _erasable(case: Case, chance: random.Random) -> None:
    """Names a gallery that was made in this run; few of the drawn names are there."""
    made = sorted(_galleries.keys() - {STANDING, AGING})
    if made and case.path_parameters.get("gallery") not in _galleries and chance.random() > _AS_DRAWN:
        case.path_parameters = {"gallery": chance.choice(made)}


def _where(case: Case, chance: random.Random) -> None:
    """Names an existing gallery, subject and template; keeps names that come from the step before."""
    drawn = case.path_parameters.items()  # names as they stand in the path
    at: dict[str, Any] = {name: unquote(value) if isinstance(value, str) else value for name, value in drawn}
    if "gallery" in at and at["gallery"] not in _galleries and chance.random() > _AS_DRAWN:
        peopled = [name for name in sorted(_galleries) if _galleries[name].subjects]
        at["gallery"] = chance.choice(peopled if peopled and "subject" in at else sorted(_galleries))
    found = _galleries.get(at.get("gallery", ""))
    subjects = found.subjects if found else _NO_SUBJECT
    enrolls = case.operation.path.endswith(("/faces", "/templates", "/embeddings"))
    if "subject" in at and not enrolls and chance.random() > _AS_DRAWN:
        # Somebody who exists; few of the drawn names do.
        stored = [
            (place, who) for place in sorted(_galleries) for who, ids in _galleries[place].subjects.items() if ids
        ]
        if stored and not subjects.get(at["subject"]):
            at["gallery"], at["subject"] = chance.choice(stored)
            subjects = _galleries[at["gallery"]].subjects
    if "subject" in at and at["subject"] not in subjects and subjects and chance.random() > _AS_DRAWN:
        at["subject"] = chance.choice(sorted(subjects))
    for name in ("template", "face"):
        held = subjects.get(at.get("subject", ""), [])
        if name in at and at[name] not in held and held and chance.random() > _AS_DRAWN:
            at[name] = chance.choice(held)
    if "request_id" in at and _recorded and chance.random() > _AS_DRAWN:
        at["request_id"] = _recorded[-1]
    if "receipt" in at and _receipts and chance.random() > _AS_DRAWN:
        at["gallery"], at["receipt"] = chance.choice(_receipts)
    case.path_parameters = at


def _envelopes(body: dict[str, Any]) -> list[dict[str, Any]]:
    found = [body.get("probe"), *(body.get("probes") or []), *(new.get("template") for new in _new_ones(body))]
    return [one for one in found if isinstance(one, dict)]


def _new_ones(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The templates of an enrollment, of one subject or of many."""
    some = [body, *(body.get("subjects") or [])]
    return [new for each in some for new in each.get("templates") or [] if isinstance(new, dict)]


def _of_subjects(case: Case, gallery: _Gallery | None, chance: random.Random) -> None:
    """Names and moments that a schema cannot describe: different ones, of the gallery's kind, in the years to come."""
    body: Any = case.body
    for at, each in enumerate(body.get("subjects") or [] if case.operation.path.endswith("/templates") else []):
        each["subject"] = f"bulk-{at}"
        for new in each["templates"]:
            new["id"] = f"{chance.getrandbits(128):032x}"
    if case.operation.path.endswith("/subjects/{subject}/move"):  # the cloud's
        held = [] if gallery is None else gallery.subjects.get((case.path_parameters or {}).get("subject", ""), [])
        some = {"templates": held[:1]} if held and chance.random() > _AS_DRAWN else {}
        body.update({"to": f"moved-{chance.randrange(_PEOPLE)}", "onto": "either", "rotation": None} | some)
    if case.operation.path.endswith("/faces/{face}/move"):  # the edge's
        body["to"] = f"moved-{chance.randrange(_PEOPLE)}"
    if case.operation.path.endswith("/merge") and gallery is not None and gallery.subjects:
        body["into"] = chance.choice(sorted(gallery.subjects))
    if case.operation.path.endswith("/expiry"):
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=chance.randint(1, 30_000))).isoformat()


def _vector(dim: int, chance: random.Random) -> NDArray[np.float32]:
    """A unit vector near one of a few people's, so that some match: (dim,) float32."""
    person = np.random.default_rng([dim, chance.randrange(_PEOPLE)]).standard_normal(dim)
    row = person + 0.3 * np.random.default_rng(chance.randrange(8)).standard_normal(dim)
    return (row / np.linalg.norm(row)).astype(np.float32)


def _enveloped(gallery: _Gallery, row: NDArray[np.float32]) -> dict[str, Any]:
    """An envelope for a gallery, with any content."""
    data = base64.b64encode(row.astype("<f4").tobytes()).decode()
    return {"version": 1, "contract": gallery.digest, "dim": gallery.dim, "dtype": "float32", "data": data}


@schemathesis.hook
def after_call(context: schemathesis.HookContext, case: Case, response: schemathesis.Response) -> None:
    """Remembers what exists now."""
    if response.status_code == 200 and case.headers.get(_RECORD) == "1":
        _recorded.append(response.headers["x-request-id"][0])
    if not 200 <= response.status_code < 300 or case.path_parameters is None:
        return
    name, method = case.path_parameters.get("gallery"), case.method.upper()
    subject = unquote(case.path_parameters.get("subject", "")) or None
    if name is None:
        return
    if method == "DELETE" and "receipt" in (said := response.json()):
        _receipts.append((name, said["receipt"]["id"]))
    subjects = _galleries[name].subjects if name in _galleries else {}
    if _is_of_a(case, "gallery") and method == "PUT":
        said = response.json()
        if name not in _galleries or _galleries[name].digest != said["contract_digest"]:
            _galleries[name] = _Gallery(said["contract_digest"], said["contract"]["dim"])
    elif _is_of_a(case, "gallery") and method == "DELETE":
        _galleries.pop(name, None)
    elif _is_of_a(case, "subject") and method == "DELETE":
        subjects.pop(subject or "", None)
    elif (_is_of_a(case, "template") or _is_of_a(case, "face")) and method == "DELETE":
        gone = case.path_parameters.get("template", case.path_parameters.get("face"))
        left = [uid for uid in subjects.pop(subject or "", []) if uid != gone]
        if left and subject:
            subjects[subject] = left
    elif subject and case.operation.path.endswith(("/rename", "/merge", "/move")):
        _moved(subjects, subject, case)
    elif subject and response.status_code == 201:
        said = response.json()
        subjects[subject] = [stored["id"] for stored in said.get("templates", said.get("faces", []))]


def _moved(subjects: dict[str, list[str]], subject: str, case: Case) -> None:
    """Remembers that a subject's faces or templates, or some of them, are another's now."""
    body: Any = case.body
    held = subjects.pop(subject, [])
    face = (case.path_parameters or {}).get("face")
    gone = held if face is None and not body.get("templates") else [face, *(body.get("templates") or [])]
    if left := [uid for uid in held if uid not in gone]:
        subjects[subject] = left
    to = body.get("to", body.get("into"))
    subjects[to] = [*subjects.get(to, []), *(uid for uid in held if uid in gone)]


@schemathesis.check
def templates_are_judged_rightly(ctx: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
    """Invalid templates are never stored, and valid ones never called invalid."""
    body: Any = case.body
    if not isinstance(body, dict) or not _well_formed(case):
        return
    sound = [_is_sound(one) for one in _envelopes(body)]
    if not sound:
        return
    taken = 200 <= response.status_code < 300
    assert all(sound) or not taken, "a template was taken that is no unit vector of its length"
    if response.status_code == 422 and all(sound):
        ids = [new["id"] for new in _new_ones(body)]
        of_another_kind = response.json().get("reason") == "name_sealed"  # which no schema can say
        assert of_another_kind or len(set(ids)) < len(ids), f"sound templates were refused: {response.text}"


def _is_sound(envelope: dict[str, Any]) -> bool:
    try:
        raw = base64.b64decode(envelope["data"], validate=True)
    except binascii.Error:
        return False
    if base64.b64encode(raw).decode() != envelope["data"]:
        return False
    if len(raw) != 4 * envelope["dim"]:
        return False
    row = np.frombuffer(raw, dtype="<f4").astype(np.float64)
    return bool(np.isfinite(row).all()) and abs(float(np.sqrt((row * row).sum())) - 1) <= _UNIT


@schemathesis.check
def what_the_schema_allows_is_not_called_malformed(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: Case
) -> None:
    """A well-formed request may be refused for its content, never for its form."""
    if response.status_code == 422 and _well_formed(case):
        said = json.loads(response.content)
        assert said.get("reason") not in {"invalid_request", "bad_body"}, f"refused for its form: {said}"


@schemathesis.check
class EveryOperationIsReached:
    """Every operation must succeed at least once in a run."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.reached: set[str] = set()

    def after_response(self, ctx: schemathesis.CheckContext, response: schemathesis.Response, case: Case) -> None:
        """Notes an answer."""
        self.tried.add(case.operation.label)
        if 200 <= response.status_code < 300:
            self.reached.add(case.operation.label)

    def after_run(self, ctx: schemathesis.CheckContext) -> None:
        """Judges the whole run."""
        missed = sorted(self.tried - self.reached)
        assert not missed, f"never answered with success: {', '.join(missed)}"
