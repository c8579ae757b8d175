"""Changes of galleries' keys, in place and while matching goes on; one after the other, in a thread of their own.

The matrices are held in memory for as long as the work lasts, and nowhere else: after a restart they are sent again,
and what was staged is not done anew. Settling needs none, so a start does it by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.record.rows import PinnedGallery
from cloud_service.rekey.steps import RekeySteps, UnderWay, Unstaged
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
)
from shared.logs import get_logger, place_of
from shared.metrics import Metrics
from shared.wire.cloud import RekeyRequest, RekeyStatus, Rotation

_log = get_logger(__name__)

# Rows of one transaction: a writer that comes meanwhile waits for some hundredths of a second.
_ROWS: Final = 500
# How many subjects whose matrices are needed are named at once.
_NAMED: Final = 64
# How long a caller waits for the work before it is told to come again; well under the edge's patience with an answer.
_PATIENCE_SECONDS: Final = 2.0
# How often emptying the log is tried while somebody reads an old state of the record. Each try waits by itself.
_SCRUBS: Final = 10

Matrices = Mapping[str | None, NDArray[np.float64]]
"""What turns the templates of a subject; under None, of all of them."""


class _Lacking(Exception):
    """A subject's matrix is not here."""


@dataclass(eq=False)
class _Job:
    """Work on one gallery's key.

    ``contract`` is the one to come; None where there is none: to settle, or to abandon. ``by`` is the id of the API key
    of who asked for it. ``staged_to`` is an id up to which every template was seen to be staged.
    """

    contract: Contract | None
    matrices: Matrices = field(default_factory=dict, repr=False)
    by: str | None = None
    staged_to: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    done: Future[None] = field(default_factory=Future)

    @property
    def working(self) -> bool:
        """Whether it runs, or waits for its turn."""
        return not self.done.done()


class Rekeying:
    """What ``…/rekey`` does.

    Args:
        store: whose galleries' keys are changed.
        metrics: where steps are timed.
    """

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._indexes = store.indexes
        self._turning = RekeySteps(store.record.database, store.record.journal, store.record.damaged_templates)
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rekey")
        self._jobs: dict[int, _Job] = {}
        self._choosing = threading.Lock()

    def start(self) -> None:
        """Begins to settle what a former run left unsettled."""
        for pinned in self._turning.unsettled():
            self._give(pinned, _Job(None), self._settle)

    def change(self, name: str, wanted: RekeyRequest, by: str | None) -> RekeyStatus:
        """Changes a gallery's key, or goes on with that; waits for a moment until it is done.

        Args:
            name: of the gallery.
            wanted: the contract that is to hold, and matrices. A gallery that has this contract already is left as it
                is. What was staged for a third contract is discarded.
            by: the id of the caller's API key, for the audit log.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: the contracts differ in more than the key, or the matrices turn from another one.
            Conflict: the gallery is not sealed, or the change was abandoned meanwhile.
            Unprocessable: a matrix is not a rotation of the gallery's length, or not one for each that has a seal.
            RecordDamaged: a template is damaged; what was staged until then stays, and nothing else is changed.
        """
        now = self._turning.look(name)
        job = self._at_work(now)
        if job is not None and job.contract == wanted.contract:
            pass  # at it already
        elif wanted.contract == now.contract:
            job = self._give(now.pinned, _Job(None), self._settle) if now.unsettled else None
        else:
            _refuse_more_than_a_key(now.contract, wanted.contract)
            # From here on each transaction asks whether the gallery is in the turn that was looked at.
            if wanted.replaces != now.pinned.contract_digest:
                raise ContractMismatch(
                    "The matrices turn from another key than the gallery has now: it was changed meanwhile, or they "
                    "are late. Make them anew from its contract.",
                    expected=now.pinned.contract_digest,
                    given=wanted.replaces,
                )
            job = self._give(now.pinned, _Job(wanted.contract, _opened(now.pinned, wanted.rotations), by), self._change)
        return self._waited_for(name, job, wanted.contract)

    def abandon(self, name: str) -> RekeyStatus:
        """Discards what was staged; the gallery stays under the key that it has.

        Raises:
            NotFound: there is no such gallery.
            ContractMismatch: too late, its key was changed meanwhile.
        """
        now = self._turning.look(name)
        job = self._at_work(now)
        if now.next_contract is not None or (job is not None and job.contract not in (None, now.contract)):
            job = self._give(now.pinned, _Job(None), self._discard)
        return self._waited_for(name, job)

    def status(self, name: str) -> RekeyStatus:
        """How far a change of a gallery's key is.

        Raises:
            NotFound: there is no such gallery.
        """
        now = self._turning.look(name)
        job = self._at_work(now)
        working = job is not None
        next_contract = now.next_contract
        if job is not None and job.contract != now.contract:
            next_contract = job.contract  # perhaps not in the record yet: another gallery's turn comes first
        lacking = next_contract is not None and now.pinned.verify_only and not working
        return RekeyStatus(
            gallery=now.pinned.name,
            contract=now.contract,
            contract_digest=now.pinned.contract_digest,
            next_contract=next_contract,
            state="staging" if next_contract else "settling" if now.unsettled or working else "settled",
            working=working,
            templates=now.templates,
            left=now.templates - now.staged if next_contract else now.unsettled,
            subjects=self._lacking(now) if lacking else [],
        )

    def close(self) -> None:
        """Ends the work between two steps."""
        for job in list(self._jobs.values()):
            job.stop.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _at_work(self, now: UnderWay) -> _Job | None:
        job = self._jobs.get(now.pinned.id)
        return job if job is not None and job.working else None

    def _give(self, pinned: PinnedGallery, job: _Job, work: Callable[[PinnedGallery, _Job], None]) -> _Job:
        """Has work done, unless the very same is at work already; what is at work for something else is stopped."""
        with self._choosing:
            known = self._jobs.get(pinned.id)
            if known is not None and known.contract == job.contract and job.contract is not None:
                if known.working:
                    return known
                job.staged_to = known.staged_to
            elif known is not None:
                known.stop.set()
            job.done = self._thread.submit(self._run, pinned, job, work)
            self._jobs[pinned.id] = job
        return job

    def _waited_for(self, name: str, job: _Job | None, wanted: Contract | None = None) -> RekeyStatus:
        """How far a gallery is, once the job is done or after a moment.

        A job that failed after the key was changed is told as how far that is, not as an error: it was changed.
        """
        if job is not None and wait([job.done], _PATIENCE_SECONDS).done:
            error = job.done.exception()
            if error is not None and not (wanted is not None and self._is_under(name, wanted)):
                raise error
        return self.status(name)

    def _is_under(self, name: str, contract: Contract) -> bool:
        try:
            return self._turning.look(name).contract == contract
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
            job.matrices = {}

    def _change(self, pinned: PinnedGallery, job: _Job) -> None:
        contract = job.contract
        assert contract is not None  # noqa: S101 - what this job is for
        self._settle(pinned, job)
        if self._turning.look(pinned.name).next_contract not in (None, contract):
            self._discard(pinned, job)
        if job.stop.is_set():
            return
        with self._store.writing():
            self._turning.begin(pinned, contract, job.by)
        after = replace(pinned, turn=pinned.turn + 1, contract_digest=contract.digest())
        try:
            if self._staged(pinned, contract, job):
                self._flip(pinned, after, contract, job)
                self._settle(after, job)
        except _Lacking:
            return  # somebody was enrolled meanwhile: their matrix is asked for, and this goes on from here
        except Exception:
            self._indexes.unprepare(after)
            raise

    def _staged(self, pinned: PinnedGallery, contract: Contract, job: _Job) -> bool:
        """Stages what there are matrices for; true when that was all."""
        whose = list(job.matrices) if pinned.verify_only else [None]
        for subject in whose:
            last = job.staged_to if subject is None else 0
            while not job.stop.is_set():
                some = self._turning.unstaged(pinned, last, _ROWS, subject)
                if not len(some.ids):
                    break
                rows = _turned(some, job.matrices)
                with self._store.writing():
                    self._turning.stage(pinned, contract, some, rows)
                last = int(some.ids[-1])
            if subject is None:
                job.staged_to = last
        left, _subjects = self._turning.lacking(pinned, job.staged_to, 1)
        if pinned.verify_only and left:
            job.staged_to = left[0] - 1
            return False
        return not job.stop.is_set()

    def _flip(self, pinned: PinnedGallery, after: PinnedGallery, contract: Contract, job: _Job) -> None:
        self._store.record.vectors.check_staged(after)
        self._indexes.prepare(after)
        with self._store.writing(), self._metrics.step("flip"):
            began = time.perf_counter()
            self._indexes.turn(
                after,
                lambda: self._turning.flip(
                    pinned, contract, lambda late: _turned(late, job.matrices), job.staged_to, job.by
                ),
            )
            held = time.perf_counter() - began
        _log.info("gallery_rekeyed", writers_waited_ms=round(held * 1000, 1))

    def _settle(self, pinned: PinnedGallery, job: _Job) -> None:
        self._in_steps(lambda: self._turning.settle(pinned, _ROWS), job)

    def _discard(self, pinned: PinnedGallery, job: _Job) -> None:
        self._indexes.unprepare(replace(pinned, turn=pinned.turn + 1))
        self._in_steps(lambda: self._turning.discard(pinned, _ROWS), job)

    def _in_steps(self, step: Callable[[], bool], job: _Job) -> None:
        """Overwrites some rows after the other, and then empties the record's log, which may still hold the bytes."""
        some = False
        while not job.stop.is_set():
            with self._store.writing():
                if not step():
                    break
            some = True
        for _ in range(_SCRUBS if some else 0):
            try:
                self._store.scrub()
            except Overloaded:
                if job.stop.wait(1):
                    return
            else:
                return

    def _lacking(self, now: UnderWay) -> list[str]:
        """Some subjects whose templates are yet to be staged, in the order of these."""
        last = self._jobs.get(now.pinned.id)
        staged_to = last.staged_to if last is not None and last.contract == now.next_contract else 0
        found: dict[str, None] = {}
        while len(found) < _NAMED:
            ids, subjects = self._turning.lacking(now.pinned, staged_to, _NAMED)
            if not ids:
                break
            found.update(dict.fromkeys(subjects))
            staged_to = ids[-1]
        return list(found)[:_NAMED]


def _refuse_more_than_a_key(now: Contract, wanted: Contract) -> None:
    if now.seal is None or wanted.seal is None:
        raise Conflict("The gallery is not sealed: there is no key of it to be changed.", reason="not_sealed")
    same_seal = {"key_id": now.seal.key_id, "epoch": now.seal.epoch, "seeds": now.seal.seeds}
    if wanted.model_copy(update={"seal": wanted.seal.model_copy(update=same_seal)}) != now:
        raise ContractMismatch(
            "Only the key of a gallery can be changed in place: for another embedder, profile or kind of seal make "
            "another gallery, and enroll anew.",
            expected=now.digest(),
            given=wanted.digest(),
        )
    if wanted.seal.key_id == now.seal.key_id:
        raise Conflict("The new contract names the key that the gallery has already.", reason="same_key")


def _opened(pinned: PinnedGallery, rotations: Sequence[Rotation]) -> Matrices:
    matrices: dict[str | None, NDArray[np.float64]] = {}
    for turn in rotations:
        if (turn.subject is not None) != pinned.verify_only or turn.subject in matrices:
            raise Unprocessable(
                "Send one matrix where the gallery has one seal, and where each subject has one, one for each subject.",
                reason="wrong_subject",
            )
        if turn.matrix.dim != pinned.dim:
            raise Unprocessable(
                f"The matrix is for templates of {turn.matrix.dim} values; this gallery's have {pinned.dim}.",
                reason="wrong_dimension",
            )
        matrices[turn.subject] = turn.matrix.open()
    if not matrices and not pinned.verify_only:
        raise Unprocessable("The matrix that turns the templates is missing; send it.", reason="no_matrix")
    return matrices


def _turned(some: Unstaged, matrices: Matrices) -> NDArray[np.float32]:
    """Templates under the new key: (n, dim) float32, unit rows; turned and normalised in float64.

    Raises:
        _Lacking: the matrix of one's subject is not here.
    """
    turned = np.empty(some.vectors.shape, np.float64)
    whose = np.array(some.subjects)
    for subject in dict.fromkeys(some.subjects) if None not in matrices else [None]:
        if subject not in matrices:
            raise _Lacking
        rows = slice(None) if subject is None else whose == subject
        turned[rows] = some.vectors[rows].astype(np.float64) @ matrices[subject].T
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return turned.astype(np.float32)
