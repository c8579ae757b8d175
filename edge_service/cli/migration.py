"""Migrates stored embeddings into a gallery, through a running edge: it has the keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_service.cli.arrays import Embeddings, new_arrays_file, new_rows, put_array
from edge_service.cli.output import DISAGREES, UNPERTURBED
from edge_service.cli.session import Session
from edge_service.protection.embeddings import check_dimension
from shared.command import counted
from shared.errors import BadRequest, ContractMismatch, PatronusError
from shared.names import is_subject_name
from shared.wire.edge import MAX_EMBEDDINGS_A_REQUEST, MAX_EMBEDDINGS_OF_A_SUBJECT, EdgeGallery

# Refusals that hold for every embedding alike.
_STOPS: Final = frozenset({401, 403, 404, 429, 500, 502, 503})
_LONGEST_FACE_ID: Final = 256
# Of rows that do not match their subject's others; poor pictures do not either, and the summary counts all.
_MOST_WARNINGS: Final = 20
# Characters of a subject's name in a sentence: a name that no subject can have may be very long.
_MOST_SHOWN: Final = 200
# Members of a refusal that number embeddings within the request.
_OF_THE_REQUEST: Final = frozenset({"embedding", "fault"})
_NOT_FINITE: Final = "holds a value that is not finite"


class Migration:
    """The embeddings of a file, and the gallery that they go to.

    Args:
        source: with the arrays embeddings (n, d) float32, subjects (n,) strings, and perhaps face_ids (n,) strings.
        session: with the edge.
        gallery: whose key protects them.

    Raises:
        BadRequest: the file is not one of these arrays.
    """

    def __init__(self, source: Path, session: Session, gallery: str) -> None:
        self._embeddings = Embeddings(source)
        self._session = session
        self._gallery = gallery
        self._subjects = self._embeddings.strings("subjects")
        self._faces = self._embeddings.strings("face_ids") if "face_ids" in self._embeddings.names else None
        self._begun = datetime.now(UTC)
        self._counts = {"enrolled": 0, "there_already": 0, "refused": 0, "unperturbed": 0, "disagreeing": 0}

    def write_templates(self, target: Path, *, force: bool) -> None:
        """Has the edge protect every embedding, and writes the templates to a file.

        The cloud gets none.

        Args:
            target: gets the arrays templates, angles, subjects, and face_ids if the source has them.
            force: whether an existing file may be replaced.

        Raises:
            Unprocessable: the embeddings have another dimension than the gallery's.
            PatronusError: the edge refuses an embedding, or all.
            Conflict: the target exists.
            BadRequest: a subject's or face's name cannot be one, or a value is not finite.
        """
        source, client = self._embeddings, self._session.patient_client
        for row, fault in sorted(self._bad_names().items()):
            raise BadRequest(f"{source.path}: row {row} (subject {self._shown(row)!r}) {fault}.")
        each_subject_alone = self._checked_gallery().verify_only
        angles = np.empty(source.count, dtype=np.float32)
        unperturbed = start = 0
        with new_arrays_file(target, force=force) as archive, self._session.out.progress() as progress:
            bar = progress.add_task("migrating", total=source.count)
            with new_rows(archive, "templates", source.count, source.dim) as templates:
                for batch in source.batches(MAX_EMBEDDINGS_A_REQUEST):
                    wrong = ~np.isfinite(batch).all(axis=1)
                    if wrong.any():
                        raise BadRequest(f"{source.path}: row {start + int(np.argmax(wrong))} {_NOT_FINITE}.")
                    made = np.empty((len(batch), source.dim), dtype="<f4")
                    every_row = range(start, start + len(batch))
                    alike: dict[str, Iterable[int]] = (
                        dict(self._by_subject(every_row)) if each_subject_alone else {"": every_row}
                    )
                    for subject, rows in alike.items():
                        at = [row - start for row in rows]
                        answer = client.protect(
                            embeddings=batch[at], gallery=self._gallery, subject=subject if each_subject_alone else None
                        )
                        made[at] = answer.templates
                        angles[list(rows)] = answer.angles
                        unperturbed += answer.unperturbed
                        progress.advance(bar, len(at))
                    templates.write(made.tobytes())
                    start += len(batch)
            put_array(archive, "angles", angles)
            put_array(archive, "subjects", np.array(self._subjects))
            if self._faces is not None:
                put_array(archive, "face_ids", np.array(self._faces))
        summary = {"protected": source.count, "unperturbed": unperturbed}
        self._session.out.result(summary, f"{target}: {source.count} templates; nothing was sent to the cloud.")

    def enroll(self) -> bool:
        """Has the edge enroll every embedding; reports one by one the rows that it refuses.

        The edge names each template after the face's id, or else after the embedding, under the gallery's key. So a
        template that was sent before is stored once, and a migration can start again at any time.

        Returns:
            Whether all were taken.

        Raises:
            Unprocessable: the embeddings have another dimension than the gallery's.
            PatronusError: the edge would refuse every embedding, or does not answer.
        """
        embeddings, counts, bad_names = self._embeddings, self._counts, self._bad_names()
        self._checked_gallery()
        with self._session.out.progress() as progress:
            bar = progress.add_task("migrating", total=embeddings.count)
            start = 0
            for batch in embeddings.batches(MAX_EMBEDDINGS_A_REQUEST):
                for subject, rows in self._sendable(batch, start, bad_names):
                    self._send(subject, rows, batch[[row - start for row in rows]])
                start += len(batch)
                progress.update(bar, completed=start)
        notes = [f"Enrolled {counts['enrolled']} of {embeddings.count} embeddings"]
        if counts["there_already"]:
            notes.append(counted(counts["there_already"], "was there already", "were there already"))
        if counts["unperturbed"]:
            notes.append(counted(counts["unperturbed"], *UNPERTURBED))
        if counts["disagreeing"]:
            notes.append(
                counted(counts["disagreeing"], "does not match", "do not match") + " the subject's other faces"
            )
        self._session.out.result(counts, "; ".join(notes) + ".")
        return not counts["refused"]

    def _checked_gallery(self) -> EdgeGallery:
        """What the edge says of the gallery.

        Raises:
            Unprocessable: the embeddings have another dimension than the gallery's.
        """
        info = self._session.patient_client.get_gallery(self._gallery)
        check_dimension(self._embeddings.dim, info.contract.dim)
        return info

    def _by_subject(self, rows: Iterable[int]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(self._subjects[row], []).append(row)
        return found

    def _shown(self, row: int) -> str:
        """The subject of a row, short enough for a sentence."""
        return self._subjects[row][:_MOST_SHOWN]

    def _bad_names(self) -> dict[int, str]:
        """What is wrong with the names of rows, by row."""
        found: dict[int, str] = {}
        seen: dict[tuple[str, str], int] = {}
        for row, subject in enumerate(self._subjects):
            face = None if self._faces is None else self._faces[row]
            if not is_subject_name(subject):
                found[row] = "has a name that no subject can have"
            elif face is not None and not 1 <= len(face) <= _LONGEST_FACE_ID:
                found[row] = f"has a face id of no letters, or of more than {_LONGEST_FACE_ID}"
            elif face is not None and seen.setdefault((subject, face), row) != row:
                found[row] = f"has the face id of row {seen[subject, face]}, for the same subject"
        return found

    def _sendable(
        self, batch: NDArray[np.float32], start: int, bad_names: dict[int, str]
    ) -> Iterator[tuple[str, list[int]]]:
        """The rows of a batch that can be sent, by subject, after the others were reported."""
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(batch).all(axis=1))
        good = []
        for row in range(start, start + len(batch)):
            fault = bad_names.get(row) or (None if finite[row - start] else _NOT_FINITE)
            if fault is None:
                good.append(row)
            else:
                self._report(row, fault, {})
        for subject, rows in self._by_subject(good).items():
            for first in range(0, len(rows), MAX_EMBEDDINGS_OF_A_SUBJECT):
                yield subject, rows[first : first + MAX_EMBEDDINGS_OF_A_SUBJECT]

    def _send(self, subject: str, rows: list[int], embeddings: NDArray[np.float32]) -> None:
        """Sends rows of one subject together, or one by one where the edge refuses them together."""
        names = None if self._faces is None else [self._faces[row] for row in rows]
        try:
            answer = self._session.patient_client.enroll_embeddings(self._gallery, subject, embeddings, faces=names)
        except PatronusError as error:
            if error.problem is None or error.status in _STOPS or isinstance(error, ContractMismatch):
                raise
            if len(rows) > 1:
                for number, row in enumerate(rows):
                    self._send(subject, [row], embeddings[number : number + 1])
            else:
                problem = {name: value for name, value in error.problem.items() if name not in _OF_THE_REQUEST}
                fault = error.problem.get("fault", f"was refused: {error.detail.removesuffix('.')}")
                self._report(rows[0], fault, problem)
        else:
            # A face that was sent before is answered with the time of then.
            stored = [face.created_at for face in answer.faces]
            self._counts["enrolled"] += len(stored)
            self._counts["there_already"] += sum(at < self._begun for at in stored)
            self._counts["unperturbed"] += answer.unperturbed
            disagreeing = [row for row, face in zip(rows, answer.faces, strict=True) if face.agrees is False]
            for row in disagreeing[: max(0, _MOST_WARNINGS - self._counts["disagreeing"])]:
                self._session.out.warn(f"Row {row} (subject {subject!r}) {DISAGREES}")
            self._counts["disagreeing"] += len(disagreeing)

    def _report(self, row: int, fault: str, problem: dict[str, Any]) -> None:
        self._counts["refused"] += 1
        subject = self._shown(row)
        label = {"subject": subject, "row": row, "enrolled": False, "detail": f"Row {row} {fault}."}
        self._session.out.refused(problem | label, f"Row {row} (subject {subject!r}) {fault}.")
