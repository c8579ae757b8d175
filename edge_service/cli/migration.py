"""Takes stored embeddings into a gallery by way of a running edge, which alone has the keys."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_service.cli.arrays import Embeddings, written_whole
from edge_service.cli.client import gallery_path
from edge_service.cli.edge_client import EdgeClient, Refused
from edge_service.cli.output import Output
from edge_service.privacy.embeddings import check_dimension
from shared.errors import BadRequest, ContractMismatch
from shared.names import SUBJECT_PATTERN
from shared.wire.edge import MAX_EMBEDDINGS_A_REQUEST, MAX_EMBEDDINGS_OF_A_SUBJECT

# Refusals that hold for every embedding alike.
_STOPS: Final = frozenset({401, 403, 404, 429, 500, 502, 503})
_OTHER_CONTRACT: Final = f"urn:patronus:problem:{ContractMismatch.kind}"
_BUSY: Final = frozenset({429, 503})
_WAITS_S: Final = (0.5, 1, 2, 4)
_LONGEST_NAME: Final = 256


@dataclass(frozen=True, slots=True)
class _Share:
    """Embeddings of one subject that go in one request: their rows, and the request's body."""

    subject: str
    rows: list[int]
    body: dict[str, Any] = field(repr=False)


class Migration:
    """The embeddings of a file, and whose they are.

    Args:
        source: with the arrays embeddings (n, d) float32, subjects (n,) strings, and perhaps face_ids (n,) strings.

    Raises:
        BadRequest: it cannot be read as such, or a name in it is not one that a subject or a face can have.
    """

    def __init__(self, source: Path) -> None:
        self._embeddings = Embeddings(source)
        self._subjects = self._embeddings.strings("subjects")
        self._faces = self._embeddings.strings("face_ids") if "face_ids" in self._embeddings.names else None
        _check_names(source, self._subjects, self._faces)

    def enroll(self, client: EdgeClient, gallery: str, out: Output) -> bool:
        """Sends every embedding to the edge, which sends its template to the cloud.

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
        taken, unturned, refused = 0, 0, 0
        with _bar(out) as progress:
            bar = progress.add_task("", total=self._embeddings.count)
            for share in self._shares():
                try:
                    answer = _sent(client, f"{gallery}/subjects/{share.subject}/embeddings", json=share.body)
                except Refused as error:
                    if error.problem.get("status") in _STOPS or error.problem.get("type") == _OTHER_CONTRACT:
                        raise
                    refused += len(share.rows)
                    label = {"subject": share.subject, "rows": share.rows, "enrolled": False}
                    out.refused(label | error.problem, f"{share.subject} (rows {_listed(share.rows)}): {error.detail}")
                else:
                    taken += len(share.rows)
                    unturned += answer["unturned"]
                progress.advance(bar, len(share.rows))
        left = f"; {unturned} had no margin and were not perturbed" if unturned else ""
        told = {"enrolled": taken, "refused": refused, "unturned": unturned}
        out.result(told, f"Enrolled {taken} of {self._embeddings.count} embeddings{left}.")
        return not refused

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
                embedding, or all; Conflict: the target is there.
        """
        source = self._embeddings
        info = client.call("GET", gallery_path(gallery))
        self._check_gallery(info)
        seal = info["contract"]["seal"]
        one_by_one = seal is not None and seal["scope"] == "subject"
        angles = np.empty(source.count, dtype=np.float32)
        unturned = done = 0
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
                        unturned += answer["unturned"]
                        progress.advance(bar, len(rows))
                    templates.write(made.tobytes())
                    done += len(part)
            arrays.put("angles", angles)
            arrays.put("subjects", np.array(self._subjects))
            if self._faces is not None:
                arrays.put("face_ids", np.array(self._faces))
        told = {"protected": source.count, "unturned": unturned}
        out.result(told, f"{target}: {source.count} templates; nothing was sent to the cloud.")

    def _check_gallery(self, info: dict[str, Any]) -> None:
        check_dimension(self._embeddings.dim, info["contract"]["dim"])

    def _shares(self) -> Iterator[_Share]:
        """The embeddings in the order of the file, those of one subject that stand near each other together."""
        start = 0
        for part in self._embeddings.parts(MAX_EMBEDDINGS_A_REQUEST):
            values = _finite(self._embeddings.path, part, start)
            for subject, rows in self._by_subject(range(start, start + len(part))).items():
                for first in range(0, len(rows), MAX_EMBEDDINGS_OF_A_SUBJECT):
                    some = rows[first : first + MAX_EMBEDDINGS_OF_A_SUBJECT]
                    new = [{"values": values[row - start]} | self._named(row) for row in some]
                    yield _Share(subject, some, {"embeddings": new})
            start += len(part)

    def _alike(self, rows: range, one_by_one: bool) -> list[tuple[str | None, list[int]]]:
        """Rows that are sealed alike: each subject's, or all."""
        return [*self._by_subject(rows).items()] if one_by_one else [(None, list(rows))]

    def _by_subject(self, rows: range) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(self._subjects[row], []).append(row)
        return found

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


def _check_names(source: Path, subjects: list[str], faces: list[str] | None) -> None:
    good = re.compile(SUBJECT_PATTERN)
    for row, subject in enumerate(subjects):
        if good.fullmatch(subject) is None:
            raise BadRequest(f"{source}: row {row} names a subject {subject[:200]!r}; none can have this name.")
    if faces is None:
        return
    seen: dict[tuple[str, str], int] = {}
    for row, named in enumerate(zip(subjects, faces, strict=True)):
        if not 1 <= len(named[1]) <= _LONGEST_NAME:
            raise BadRequest(f"{source}: row {row} has a face id of no letters, or of more than {_LONGEST_NAME}.")
        if seen.setdefault(named, row) != row:
            raise BadRequest(f"{source}: rows {seen[named]} and {row} have one face id for one subject.")


def _finite(source: Path, part: NDArray[np.float32], start: int) -> list[list[float]]:
    """Rows as JSON takes them, which has no word for what is not finite."""
    wrong = ~np.isfinite(part).all(axis=1)
    if wrong.any():
        raise BadRequest(f"{source}: row {start + int(np.argmax(wrong))} holds a value that is not finite.")
    rows: list[list[float]] = part.tolist()
    return rows


def _bar(out: Output) -> Progress:
    columns = (TextColumn("migrating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out.errors, transient=True)


def _listed(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
