"""Takes stored embeddings into a gallery by way of a running edge, which alone has the keys."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_service.cli.arrays import Embeddings, written_whole
from edge_service.cli.client import gallery_path
from edge_service.cli.edge_client import EdgeClient, Refused
from edge_service.cli.output import Output
from edge_service.protection.embeddings import check_dimension
from shared.errors import BadRequest, ContractMismatch
from shared.names import SUBJECT_PATTERN
from shared.wire.edge import MAX_EMBEDDINGS_A_REQUEST, MAX_EMBEDDINGS_OF_A_SUBJECT

# Refusals that hold for every embedding alike.
_STOPS: Final = frozenset({401, 403, 404, 429, 500, 502, 503})
_OTHER_CONTRACT: Final = f"urn:patronus:problem:{ContractMismatch.kind}"
_BUSY: Final = frozenset({429, 503})
_WAITS_S: Final = (0.5, 1, 2, 4)
_LONGEST_NAME: Final = 256
# Characters of a subject's name in a sentence.
_MOST_SHOWN: Final = 200
# Members of a refusal that number embeddings within the request.
_OF_THE_REQUEST: Final = frozenset({"embedding", "fault"})
_NOT_FINITE: Final = "holds a value that is not finite"


@dataclass(frozen=True, slots=True)
class _Share:
    """Embeddings of one subject that go in one request: their rows in the file, and what is sent of each."""

    subject: str
    rows: list[int]
    embeddings: list[dict[str, Any]] = field(repr=False)


@dataclass(slots=True)
class _Tally:
    """What became of the rows that were sent, and since when rows are sent."""

    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    taken: int = 0
    there_already: int = 0
    unperturbed: int = 0
    refused: int = 0

    def add(self, answer: dict[str, Any]) -> None:
        """Counts what the edge answered. A face that was sent before is answered with the time of then."""
        stored = [datetime.fromisoformat(face["created_at"]) for face in answer["faces"]]
        self.taken += len(stored)
        self.there_already += sum(at < self.begun for at in stored)
        self.unperturbed += answer["unperturbed"]


class Migration:
    """The embeddings of a file, and whose they are.

    Args:
        source: with the arrays embeddings (n, d) float32, subjects (n,) strings, and perhaps face_ids (n,) strings.

    Raises:
        BadRequest: it cannot be read as such.
    """

    def __init__(self, source: Path) -> None:
        self._embeddings = Embeddings(source)
        self._subjects = self._embeddings.strings("subjects")
        self._faces = self._embeddings.strings("face_ids") if "face_ids" in self._embeddings.names else None
        self._bad_names = _bad_names(self._subjects, self._faces)

    def enroll(self, client: EdgeClient, gallery: str, out: Output) -> bool:
        """Sends every embedding to the edge, which sends its template to the cloud. Rows that cannot be sent, or that
        the edge refuses, are told one by one, and the rest goes on.

        The edge names each template after the face's id, or else after the embedding, under the gallery's key. So one
        that was sent before is stored once, and this can be run again from the start at any time.

        Args:
            client: of the edge.
            gallery: path of the gallery.
            out: where to tell of it.

        Returns:
            Whether all were taken.

        Raises:
            Unprocessable: the embeddings have another dimension than the gallery's; Refused: the edge refuses all
                alike; SetupError: no edge answers.
        """
        # A gallery that is not there, or is for other embeddings, is told before anything is sent.
        self._check_gallery(client.call("GET", gallery))
        tally = _Tally()
        with _bar(out) as progress:
            bar = progress.add_task("", total=self._embeddings.count)
            start = 0
            for part in self._embeddings.parts(MAX_EMBEDDINGS_A_REQUEST):
                faults = self._faults(part, start)
                for row, what in faults.items():
                    self._tell_refused(row, what, {}, tally, out)
                for share in self._shares(part, start, faults.keys()):
                    self._enroll_share(client, gallery, share, tally, out)
                start += len(part)
                progress.update(bar, completed=start)
        there = f"; {tally.there_already} {_was(tally.there_already)} there already" if tally.there_already else ""
        left = (
            f"; {tally.unperturbed} had no margin and {_was(tally.unperturbed)} not perturbed"
            if tally.unperturbed
            else ""
        )
        told = {
            "enrolled": tally.taken,
            "there_already": tally.there_already,
            "refused": tally.refused,
            "unperturbed": tally.unperturbed,
        }
        out.result(told, f"Enrolled {tally.taken} of {self._embeddings.count} embeddings{there}{left}.")
        return not tally.refused

    def write(self, client: EdgeClient, gallery: str, target: Path, out: Output, *, force: bool) -> None:
        """Has the edge protect every embedding and writes the templates to a file; the cloud gets none.

        Args:
            client: of the edge.
            gallery: whose key seeds and seals.
            target: gets the arrays templates, angles, subjects, and face_ids if the source has them.
            out: where to tell of it.
            force: whether a file that is there may be replaced.

        Raises:
            Unprocessable: the embeddings have another dimension than the gallery's; Refused: the edge refuses an
                embedding, or all; Conflict: the target is there; BadRequest: a name in the file is not one that a
                subject or a face can have, or a value is not finite.
        """
        source = self._embeddings
        for row, what in sorted(self._bad_names.items()):
            raise BadRequest(f"{source.path}: row {row} (subject {self._subject(row)!r}) {what}.")
        info = client.call("GET", gallery_path(gallery))
        self._check_gallery(info)
        seal = info["contract"]["seal"]
        one_by_one = seal is not None and seal["scope"] == "subject"
        angles = np.empty(source.count, dtype=np.float32)
        unperturbed = done = 0
        with written_whole(target, force=force) as arrays, _bar(out) as progress:
            bar = progress.add_task("", total=source.count)
            with arrays.rows("templates", source.count, source.dim) as templates:
                for part in source.parts(MAX_EMBEDDINGS_A_REQUEST):
                    values = _finite(source.path, part, done)
                    made = np.empty((len(part), source.dim), dtype="<f4")
                    for subject, rows in self._alike(range(done, done + len(part)), one_by_one):
                        at = [row - done for row in rows]
                        params = {"gallery": gallery} | ({} if subject is None else {"subject": subject})
                        body = {"embeddings": [values[row] for row in at]}
                        answer = _sent(client, "/v1/protect", params=params, json=body)
                        made[at] = answer["templates"]
                        angles[rows] = answer["angles"]
                        unperturbed += answer["unperturbed"]
                        progress.advance(bar, len(rows))
                    templates.write(made.tobytes())
                    done += len(part)
            arrays.put("angles", angles)
            arrays.put("subjects", np.array(self._subjects))
            if self._faces is not None:
                arrays.put("face_ids", np.array(self._faces))
        told = {"protected": source.count, "unperturbed": unperturbed}
        out.result(told, f"{target}: {source.count} templates; nothing was sent to the cloud.")

    def _check_gallery(self, info: dict[str, Any]) -> None:
        check_dimension(self._embeddings.dim, info["contract"]["dim"])

    def _faults(self, part: NDArray[np.float32], start: int) -> dict[int, str]:
        """What is wrong with those rows of a part that cannot be sent, by row of the file, in the order of the file."""
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(part).all(axis=1))
        found: dict[int, str] = {}
        for row in range(start, start + len(part)):
            if row in self._bad_names:
                found[row] = self._bad_names[row]
            elif not finite[row - start]:
                found[row] = _NOT_FINITE
        return found

    def _shares(self, part: NDArray[np.float32], start: int, without: Collection[int]) -> Iterator[_Share]:
        """The embeddings of a part, those of one subject together."""
        wanted = [row for row in range(start, start + len(part)) if row not in without]
        for subject, rows in self._by_subject(wanted).items():
            for first in range(0, len(rows), MAX_EMBEDDINGS_OF_A_SUBJECT):
                some = rows[first : first + MAX_EMBEDDINGS_OF_A_SUBJECT]
                new = [{"values": part[row - start].tolist()} | self._named(row) for row in some]
                yield _Share(subject, some, new)

    def _enroll_share(self, client: EdgeClient, gallery: str, share: _Share, tally: _Tally, out: Output) -> None:
        """Sends a share, of which the edge takes all or nothing; where it is refused, its rows one by one."""
        path = f"{gallery}/subjects/{share.subject}/embeddings"
        try:
            tally.add(_sent(client, path, json={"embeddings": share.embeddings}))
        except Refused as error:
            if error.problem.get("status") in _STOPS or error.problem.get("type") == _OTHER_CONTRACT:
                raise
            if len(share.rows) > 1:
                for row, embedding in zip(share.rows, share.embeddings, strict=True):
                    self._enroll_share(client, gallery, _Share(share.subject, [row], [embedding]), tally, out)
            else:
                problem = {name: value for name, value in error.problem.items() if name not in _OF_THE_REQUEST}
                fault = error.problem.get("fault", f"was refused: {error.detail.removesuffix('.')}")
                self._tell_refused(share.rows[0], fault, problem, tally, out)

    def _tell_refused(self, row: int, what: str, problem: dict[str, Any], tally: _Tally, out: Output) -> None:
        tally.refused += 1
        subject = self._subject(row)
        label = {"subject": subject, "row": row, "enrolled": False}
        # What a program reads counts rows as the sentence does, and not within the request.
        out.refused(problem | label | {"detail": f"Row {row} {what}."}, f"Row {row} (subject {subject!r}) {what}.")

    def _alike(self, rows: range, one_by_one: bool) -> list[tuple[str | None, list[int]]]:
        """Rows that are sealed alike: each subject's, or all."""
        return [*self._by_subject(rows).items()] if one_by_one else [(None, list(rows))]

    def _by_subject(self, rows: Iterable[int]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(self._subjects[row], []).append(row)
        return found

    def _subject(self, row: int) -> str:
        """The subject of a row as it is shown to people: a name that none can have may be very long."""
        return self._subjects[row][:_MOST_SHOWN]

    def _named(self, row: int) -> dict[str, str]:
        return {} if self._faces is None else {"face": self._faces[row]}


def _sent(client: EdgeClient, path: str, **request: Any) -> dict[str, Any]:
    """The edge's answer, asked for again while it or the cloud is busy or away for a moment."""
    for seconds in _WAITS_S:
        try:
            return client.call("POST", path, **request)
        except Refused as error:
            if error.problem.get("status") not in _BUSY:
                raise
            time.sleep(seconds)
    return client.call("POST", path, **request)


def _bad_names(subjects: list[str], faces: list[str] | None) -> dict[int, str]:
    """What is wrong with the names of rows, by row."""
    good = re.compile(SUBJECT_PATTERN)
    found: dict[int, str] = {}
    seen: dict[tuple[str, str], int] = {}
    for row, subject in enumerate(subjects):
        face = None if faces is None else faces[row]
        if good.fullmatch(subject) is None:
            found[row] = "has a name that no subject can have"
        elif face is not None and not 1 <= len(face) <= _LONGEST_NAME:
            found[row] = f"has a face id of no letters, or of more than {_LONGEST_NAME}"
        elif face is not None and seen.setdefault((subject, face), row) != row:
            found[row] = f"has the face id of row {seen[subject, face]}, for the same subject"
    return found


def _finite(source: Path, part: NDArray[np.float32], start: int) -> list[list[float]]:
    """Rows as JSON takes them, which has no word for what is not finite."""
    wrong = ~np.isfinite(part).all(axis=1)
    if wrong.any():
        raise BadRequest(f"{source}: row {start + int(np.argmax(wrong))} {_NOT_FINITE}.")
    rows: list[list[float]] = part.tolist()
    return rows


def _bar(out: Output) -> Progress:
    columns = (TextColumn("migrating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out.errors, transient=True)


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
