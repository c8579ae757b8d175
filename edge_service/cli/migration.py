"""Migrates stored embeddings into a gallery, through a running edge: it has the keys."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from edge_service.cli.arrays import Embeddings, in_few_digits, new_arrays_file, new_rows, put_array
from edge_service.cli.output import DISAGREES, MOVED_AWAY, UNDER_ANOTHER_NAME, UNPERTURBED
from edge_service.cli.session import Session
from edge_service.protection.embeddings import check_dimension
from shared.command import counted
from shared.errors import BadRequest, ContractMismatch, PatronusError
from shared.names import is_subject_name
from shared.wire.edge import MAX_EMBEDDINGS_A_REQUEST, MAX_EMBEDDINGS_BYTES, EdgeGallery
from shared.wire.edge_embeddings import EnrollSubjectsAnswer

# Refusals that hold for every embedding alike, by their status or reason.
_STOPS: Final = frozenset({401, 403, 404, 429, 500, 502, 503, "gallery_full"})
_LONGEST_FACE_ID: Final = 256
# Of rows that do not match their subject's others; poor pictures do not either, and the summary counts all.
_MOST_WARNINGS: Final = 20
# Characters of a subject's name in a sentence: a name that no subject can have may be very long.
_MOST_SHOWN: Final = 200
# Requests at a time: edge and cloud work side by side.
_AT_ONCE: Final = 2
# Members of a refusal that number embeddings within the request.
_OF_THE_REQUEST: Final = frozenset({"embedding", "embeddings", "fault"})
# Of an embedding in JSON: the most bytes of one value, and of the names beside the values.
_VALUE_BYTES: Final = 25
_NAMES_BYTES: Final = 5_000
_NOT_FINITE: Final = "holds a value that is not finite"
Rows = NDArray[np.float32]


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
        self._subjects = [normalize("NFC", subject) for subject in self._embeddings.strings("subjects")]
        self._faces = self._embeddings.strings("face_ids") if "face_ids" in self._embeddings.names else None
        names = ("enrolled", "there_already", "elsewhere", "refused", "unperturbed", "disagreeing")
        self._counts = dict.fromkeys(names, 0)
        # By row: edge and cloud work at two requests at a time, and answer some of a request's rows late.
        self._said: dict[int, Callable[[], None]] = {}
        self._warned = 0

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
        angles: list[NDArray[np.float32]] = []
        unperturbed = start = 0
        with new_arrays_file(target, force=force) as archive, self._session.out.progress() as progress:
            bar = progress.add_task("migrating", total=source.count)
            with new_rows(archive, "templates", source.count, source.dim) as templates:
                for batch in source.batches(MAX_EMBEDDINGS_A_REQUEST):
                    wrong = ~np.isfinite(batch).all(axis=1)
                    if wrong.any():
                        raise BadRequest(f"{source.path}: row {start + int(np.argmax(wrong))} {_NOT_FINITE}.")
                    made = np.empty((len(batch), source.dim), dtype="<f4")
                    angles.append(np.empty(len(batch), dtype=np.float32))
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
                        angles[-1][at] = answer.angles
                        unperturbed += answer.unperturbed
                        progress.advance(bar, len(at))
                    templates.write(made.tobytes())
                    start += len(batch)
            put_array(archive, "angles", np.concatenate(angles))
            put_array(archive, "subjects", np.array(self._subjects))
            if self._faces is not None:
                put_array(archive, "face_ids", np.array(self._faces))
        summary = {"protected": source.count, "unperturbed": unperturbed}
        self._session.out.result(summary, f"{target}: {source.count} templates; nothing was sent to the cloud.")

    def enroll(self) -> bool:
        """Has the edge enroll every embedding, many subjects a request; reports one by one the rows that it refuses.

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
        fit = MAX_EMBEDDINGS_BYTES // (_VALUE_BYTES * embeddings.dim + _NAMES_BYTES)
        under_way: deque[tuple[int, Callable[[], None]]] = deque()
        with self._session.out.progress() as progress, ThreadPoolExecutor(_AT_ONCE) as pool:
            bar = progress.add_task("migrating", total=embeddings.count)
            start = 0
            try:
                for batch in embeddings.batches(min(fit, MAX_EMBEDDINGS_A_REQUEST)):
                    rows = self._sendable(batch, start, bad_names)
                    values = batch[[row - start for row in rows]]
                    start += len(batch)
                    answer = pool.submit(self._send, rows, values).result if rows else None
                    under_way.append((start, partial(self._take, rows, values, answer)))
                    if len(under_way) == _AT_ONCE:
                        done, take = under_way.popleft()
                        take()
                        self._say(done)
                        progress.update(bar, completed=done)
                for _done, take in under_way:
                    take()
            finally:
                self._say(embeddings.count)
        notes = [f"Enrolled {counts['enrolled']} of {embeddings.count} embeddings"]
        if counts["there_already"] == embeddings.count:
            there = counted(embeddings.count, "embedding was", "embeddings were")
            notes = [f"Nothing was stored: {there} there already"]
        elif counts["there_already"]:
            notes.append(counted(counts["there_already"], "was there already", "were there already"))
        if counts["elsewhere"]:
            notes.append(counted(counts["elsewhere"], *UNDER_ANOTHER_NAME))
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

    def _sendable(self, batch: Rows, start: int, bad_names: dict[int, str]) -> list[int]:
        """The rows of a batch that can be sent, after the others were reported."""
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(batch).all(axis=1))
        good = []
        for row in range(start, start + len(batch)):
            fault = bad_names.get(row) or (None if finite[row - start] else _NOT_FINITE)
            if fault is None:
                good.append(row)
            else:
                self._report(row, fault, {})
        return good

    def _send(self, rows: list[int], embeddings: Rows) -> EnrollSubjectsAnswer:
        """Sends rows together."""
        names = None if self._faces is None else [self._faces[row] for row in rows]
        subjects = [self._subjects[row] for row in rows]
        values = in_few_digits(embeddings)
        return self._session.patient_client.enroll_subjects(self._gallery, subjects, values, faces=names)

    def _take(self, rows: list[int], embeddings: Rows, answer: Callable[[], EnrollSubjectsAnswer] | None) -> None:
        """Counts what became of rows that were sent; where the edge refused some, sends the others without them."""
        if answer is None:  # there were none to send
            return
        try:
            found = answer()
        except PatronusError as error:
            self._send_others(rows, embeddings, error)
        else:
            self._count(rows, found)

    def _send_others(self, rows: list[int], embeddings: Rows, error: PatronusError) -> None:
        """Reports the rows that a refusal names, or the only one, and sends the others; if it names none, by halves."""
        if error.problem is None or _STOPS & {error.status, error.reason} or isinstance(error, ContractMismatch):
            raise error
        named = error.extra.get("embeddings", ()) if len(rows) > 1 else (0,)
        refused = frozenset(named) & frozenset(range(len(rows)))
        for at in sorted(refused):
            problem = {name: value for name, value in error.problem.items() if name not in _OF_THE_REQUEST}
            fault = error.problem.get("fault", f"was refused: {error.detail.removesuffix('.')}")
            self._report(rows[at], fault, problem, "elsewhere" if error.reason == MOVED_AWAY else "refused")
        left = [at for at in range(len(rows)) if at not in refused]
        half = 0 if refused else len(left) // 2
        for part in filter(None, (left[:half], left[half:])):
            some, values = [rows[at] for at in part], embeddings[part]
            self._take(some, values, partial(self._send, some, values))

    def _count(self, rows: list[int], answer: EnrollSubjectsAnswer) -> None:
        before = sum(face.stored == "before" for face in answer.faces)
        self._counts["enrolled"] += len(rows) - before
        self._counts["there_already"] += before
        self._counts["unperturbed"] += answer.unperturbed
        disagreeing = [row for row, face in zip(rows, answer.faces, strict=True) if face.agrees is False]
        for row in disagreeing:
            self._said[row] = partial(self._warn, f"Row {row} (subject {self._shown(row)!r}) {DISAGREES}")
        self._counts["disagreeing"] += len(disagreeing)

    def _report(self, row: int, fault: str, problem: dict[str, Any], count: str = "refused") -> None:
        self._counts[count] += 1
        subject = self._shown(row)
        label = {"subject": subject, "row": row, "enrolled": False, "detail": f"Row {row} {fault}."}
        sentence = f"Row {row} (subject {subject!r}) {fault}."
        self._said[row] = partial(self._session.out.refused, problem | label, sentence)

    def _warn(self, sentence: str) -> None:
        self._warned += 1
        if self._warned <= _MOST_WARNINGS:
            self._session.out.warn(sentence)

    def _say(self, end: int) -> None:
        """Says what is to be said of the rows before ``end``, in the order of the file."""
        for row in sorted(row for row in self._said if row < end):
            self._said.pop(row)()
