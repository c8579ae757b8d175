"""Changes galleries' keys in place while matching goes on, one after the other.

The matrices are held in memory for as long as the work lasts, and nowhere else: after a restart they are sent again,
and what was staged stays staged. Settling needs none, so a start does it by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.entries.vectors import rotated
from cloud_service.record.queries import PinnedGallery, Stored
from cloud_service.rekey.steps import RekeyProgress, RekeySteps, StillNeeded
from cloud_service.store import Store
from shared.contract import Contract
from shared.errors import (
    Conflict,
    ContractMismatch,
    OutcomeUnknown,
    Overloaded,
    PatronusError,
    RecordUnavailable,
    Unprocessable,
    place_of,
)
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.wire.cloud import MAX_NAMES_A_REQUEST, RekeyRequest, RekeyStatus, Rotation

_log = get_logger(__name__)

# Rows of one transaction: a writer that comes meanwhile waits for some hundredths of a second.
_ROWS: Final = 500
# The most subjects without a matrix that one answer names.
_NAMED: Final = 64
# How long a caller waits for the work before it must ask again; well under the edge's patience with an answer.
_PATIENCE_SECONDS: Final = 2.0
# How often emptying the log is tried while somebody reads an old state of the record. Each try waits by itself.
_SCRUBS: Final = 10

# The rotation of each subject's templates; under None, of all templates.
Matrices = Mapping[str | None, NDArray[np.float64]]


@dataclass(eq=False)
class _Job:
    """Work on one gallery's key.

    ``contract`` is the next one; None: to settle, or to abandon. ``names`` are next names, by present ones. ``by`` is
    the id of the caller's API key. All templates up to the id ``staged_to`` are staged.
    """

    contract: Contract | None
    matrices: Matrices = field(default_factory=dict, repr=False)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    by: str | None = None
    staged_to: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    done: Future[None] = field(default_factory=Future)


class Rekeying:
    """The service behind ``…/rekey``.

    Args:
        store: whose galleries' keys are changed.
        metrics: where steps are timed.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._indexes = store.indexes
        self._steps = RekeySteps(store.record)
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rekey")
        self._jobs: dict[int, _Job] = {}
        self._choosing = threading.Lock()

    def start(self) -> None:
        """Begins to settle what a former run left unsettled."""
        for pinned in self._steps.unsettled():
            self._submit(pinned, _Job(None), self._settle)

    def change(self, name: str, wanted: RekeyRequest, by: str | None) -> RekeyStatus:
        """Changes a gallery's key, or goes on with a change; waits for a moment until it is done.

        Args:
            name: of the gallery.
            wanted: the next contract, matrices, and names. A gallery that has this contract already is left as it is.
                What was staged for a third contract is discarded.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: the contracts differ in more than the key, or the matrices start from another one.
            Conflict: the gallery is not sealed, or the change was abandoned meanwhile.
            Unprocessable: a matrix is not a rotation of the gallery's length, or not one for each that has a seal.
            RecordDamaged: a template is damaged; what was staged until then stays, and nothing else is changed.
        """
        now = self._steps.progress(name)
        job = self._at_work(now)
        if job is None or job.contract != wanted.contract:
            if wanted.contract == now.contract:
                job = self._submit(now.pinned, _Job(None), self._settle) if now.unsettled else None
            else:
                _refuse_more_than_a_key(now.contract, wanted.contract)
                # From here on each transaction checks that the gallery still has the key version that was read.
                if wanted.replaces != now.pinned.contract_digest:
                    raise ContractMismatch(
                        "The matrices start from another key than the gallery has now: it was changed meanwhile, or "
                        "they are late. Make new ones from its contract.",
                        expected=now.pinned.contract_digest,
                        given=wanted.replaces,
                    )
                names = {each.subject: each.sealed for each in wanted.names}
                new = _Job(wanted.contract, _matrices(now.pinned, wanted.rotations), names, by)
                job = self._submit(now.pinned, new, self._change)
        return self._status_after(name, job, wanted.contract)

    def abandon(self, name: str) -> RekeyStatus:
        """Discards what was staged; the gallery stays under the key that it has.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: too late, its key was changed meanwhile.
        """
        now = self._steps.progress(name)
        job = self._at_work(now)
        if now.next_contract is not None or (job is not None and job.contract not in (None, now.contract)):
            job = self._submit(now.pinned, _Job(None), self._discard)
        return self._status_after(name, job)

    def status(self, name: str) -> RekeyStatus:
        """How far a change of a gallery's key is.

        Raises:
            NotFound: there is no such gallery.
        """
        now = self._steps.progress(name)
        job = self._at_work(now)
        next_contract = now.next_contract
        if job is not None and job.contract != now.contract:
            next_contract = job.contract  # perhaps not in the record yet, while another gallery's job runs
        asking = next_contract is not None and job is None
        return RekeyStatus(
            gallery=now.pinned.name,
            contract=now.contract,
            contract_digest=now.pinned.contract_digest,
            next_contract=next_contract,
            state="staging" if next_contract else "settling" if now.unsettled or job else "settled",
            working=job is not None,
            templates=now.templates,
            left=now.templates - now.staged if next_contract else now.unsettled,
            subjects=self._without_matrix(now) if asking and now.pinned.verify_only else [],
            unnamed=self._steps.unnamed(now.pinned, MAX_NAMES_A_REQUEST) if asking else [],
        )

    def close(self) -> None:
        """Ends the work between two steps."""
        for job in list(self._jobs.values()):
            job.stop.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _at_work(self, now: RekeyProgress) -> _Job | None:
        job = self._jobs.get(now.pinned.id)
        return None if job is None or job.done.done() else job

    def _submit(self, pinned: PinnedGallery, job: _Job, work: Callable[[PinnedGallery, _Job], None]) -> _Job:
        """Starts a job, unless one for this contract is at work; stops one for another contract."""
        with self._choosing:
            known = self._jobs.get(pinned.id)
            if known is not None and known.contract == job.contract and job.contract is not None:
                if not known.done.done():
                    return known
                job.staged_to = known.staged_to
            elif known is not None:
                known.stop.set()
            job.done = self._thread.submit(self._run, pinned, job, work)
            self._jobs[pinned.id] = job
        return job

    def _status_after(self, name: str, job: _Job | None, wanted: Contract | None = None) -> RekeyStatus:
        """The status once the job is done or after a moment.

        A job that failed after the key was changed raises nothing: the status says how far it is.
        """
        if job is not None and wait([job.done], _PATIENCE_SECONDS).done:
            error = job.done.exception()
            if error is not None and not (wanted is not None and self._is_under(name, wanted)):
                raise error
        return self.status(name)

    def _is_under(self, name: str, contract: Contract) -> bool:
        try:
            return self._steps.progress(name).contract == contract
        except RecordUnavailable:
            raise OutcomeUnknown from None

    def _run(self, pinned: PinnedGallery, job: _Job, work: Callable[[PinnedGallery, _Job], None]) -> None:
        try:
            work(pinned, job)
        except PatronusError as error:
            _log.warning("rekey_stopped", problem=error.kind, reason=error.reason or "")
            raise
        except Exception as error:
            _log.error("rekey_failed", **place_of(error))
            raise
        finally:
            job.matrices, job.names = {}, {}

    def _change(self, pinned: PinnedGallery, job: _Job) -> None:
        contract = job.contract
        assert contract is not None  # noqa: S101 - what this job is for
        self._settle(pinned, job)
        if self._steps.progress(pinned.name).next_contract not in (None, contract):
            self._discard(pinned, job)
        if job.stop.is_set():
            return
        with self._store.writing():
            self._steps.begin(pinned, contract, job.by)
            if job.names:
                self._steps.name(pinned, contract, job.names)
        after = pinned.rekeyed(contract)
        try:
            if not self._stage_all(pinned, contract, job):
                return
            self._switch(pinned, after, contract, job)
        except StillNeeded:
            return  # the status asks for what is missing, as of who was enrolled meanwhile; this goes on from here
        except Exception:
            self._indexes.unprepare(pinned)
            raise
        self._settle(after, job)

    def _stage_all(self, pinned: PinnedGallery, contract: Contract, job: _Job) -> bool:
        """Stages all templates for which there are a name and a matrix; true when none is left."""
        for subject in list(job.matrices) if pinned.verify_only else [None]:
            last = job.staged_to if subject is None else 0
            while not job.stop.is_set():
                some = self._steps.unstaged(pinned, last, _ROWS, subject)
                if not len(some.ids):
                    break
                rows = _rotated(some, job.matrices)
                try:
                    with self._store.writing():
                        self._steps.stage(pinned, contract, some, rows)
                except StillNeeded:  # a name
                    break
                last = int(some.ids[-1])
                if subject is None:
                    job.staged_to = last
        left = self._steps.without_matrix(pinned, job.staged_to, 1)
        if left:
            job.staged_to = left[0].id - 1
            return False
        return not job.stop.is_set()

    def _switch(self, pinned: PinnedGallery, after: PinnedGallery, contract: Contract, job: _Job) -> None:
        def commit() -> None:
            self._steps.switch(pinned, contract, lambda late: _rotated(late, job.matrices), job.staged_to, job.by)

        self._store.record.vectors.check_staged(after)
        self._indexes.prepare(after)
        with self._store.writing(), self._metrics.step("switch"):
            began = time.perf_counter()
            self._indexes.switch(after, commit)
            held = time.perf_counter() - began
        _log.info("gallery_rekeyed", writers_waited_ms=round(held * 1000, 1))

    def _settle(self, pinned: PinnedGallery, job: _Job) -> None:
        self._repeat(lambda: self._steps.settle(pinned, _ROWS), job)

    def _discard(self, pinned: PinnedGallery, job: _Job) -> None:
        self._indexes.unprepare(pinned)
        self._repeat(lambda: self._steps.discard(pinned, _ROWS), job)

    def _repeat(self, step: Callable[[], bool], job: _Job) -> None:
        """Overwrites rows batch by batch, and then the bytes in the record's log."""
        some = False
        while not job.stop.is_set():
            with self._store.writing():
                if not step():
                    break
            some = True
        for _ in range(_SCRUBS if some else 0):
            with suppress(Overloaded):
                self._store.scrub()
                break
            if job.stop.wait(1):
                break

    def _without_matrix(self, now: RekeyProgress) -> list[str]:
        """Some subjects with templates that are not staged yet, in the order of their templates."""
        last = self._jobs.get(now.pinned.id)
        staged_to = last.staged_to if last is not None and last.contract == now.next_contract else 0
        found: dict[str, None] = {}
        while len(found) < _NAMED:
            rows = self._steps.without_matrix(now.pinned, staged_to, _NAMED)
            if not rows:
                break
            found.update(dict.fromkeys(row.name for row in rows))
            staged_to = rows[-1].id
        return list(found)[:_NAMED]


def _refuse_more_than_a_key(now: Contract, wanted: Contract) -> None:
    if now.seal is None:
        raise Conflict("The gallery is not sealed: it has no key to change.", reason="not_sealed")
    if wanted.seal is None:
        raise Conflict("The request's contract has no seal; send that of the gallery's next key.", reason="not_sealed")
    same_seal = {"key_id": now.seal.key_id, "epoch": now.seal.epoch, "seeds": now.seal.seeds}
    if wanted.model_copy(update={"seal": wanted.seal.model_copy(update=same_seal)}) != now:
        raise ContractMismatch(
            "Only the key of a gallery can be changed in place: for another embedder, profile or kind of seal make "
            "another gallery, and enroll again.",
            expected=now.digest(),
            given=wanted.digest(),
        )
    if wanted.seal.key_id == now.seal.key_id:
        raise Conflict("The new contract names the gallery's own key; name the next one.", reason="same_key")


def _matrices(pinned: PinnedGallery, rotations: Sequence[Rotation]) -> Matrices:
    matrices: dict[str | None, NDArray[np.float64]] = {}
    for rotation in rotations:
        if (rotation.subject is not None) != pinned.verify_only or rotation.subject in matrices:
            raise Unprocessable(
                "Send one matrix where the gallery has one seal, and where each subject has one, one for each subject.",
                reason="wrong_subject",
            )
        if rotation.matrix.dim != pinned.dim:
            raise Unprocessable(
                f"The matrix is for templates of {rotation.matrix.dim} values; this gallery's have {pinned.dim}.",
                reason="wrong_dimension",
            )
        matrices[rotation.subject] = rotation.matrix.open()
    if not matrices and not pinned.verify_only:
        raise Unprocessable("The matrix that rotates the templates is missing; send it.", reason="no_matrix")
    return matrices


def _rotated(some: Stored, matrices: Matrices) -> NDArray[np.float32]:
    """Rotates templates to the new key: (n, dim) float32, unit rows, by float64.

    Raises:
        StillNeeded: the matrix of one's subject is not here.
    """
    rows = np.empty_like(some.vectors)
    whose = np.array(some.subjects)
    for subject in dict.fromkeys(some.subjects) if None not in matrices else [None]:
        if subject not in matrices:
            raise StillNeeded
        which = slice(None) if subject is None else whose == subject
        rows[which] = rotated(some.vectors[which], matrices[subject])
    return rows
