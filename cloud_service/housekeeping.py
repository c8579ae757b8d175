"""Background jobs: erase expired templates, and overwrite what erasures left on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from anyio import move_on_after, to_thread

from cloud_service.record.queries import PinnedGallery
from cloud_service.settings import RetentionSettings
from cloud_service.store import Store
from shared.errors import place_of
from shared.logs import get_logger

_log = get_logger(__name__)

# Between two batches of a sweep, so that other writers come between.
_PAUSE_S = 0.02


@asynccontextmanager
async def housekeeping(store: Store, settings: RetentionSettings) -> AsyncIterator[None]:
    """Runs the jobs beside the service; the end waits for the transaction in progress."""
    jobs = _Jobs(store, settings.sweep_batch)
    tasks = [
        asyncio.create_task(jobs.repeat(jobs.sweep, settings.sweep_interval_s)),
        asyncio.create_task(jobs.repeat(jobs.overwrite, settings.overwrite_interval_s)),
    ]
    try:
        yield
    finally:
        jobs.closing.set()  # not cancelled: a thread would go on with a record that is closed
        await asyncio.gather(*tasks)


def check_clock(store: Store) -> list[PinnedGallery]:
    """Compares the clocks, corrects wrong dates, and returns galleries with a retention."""
    retention = store.retention
    store.record.clock.observe(retention.time_seen())
    limited = retention.limited()
    if limited:
        retention.keep_time()
    for gallery in limited:
        store.redate(gallery)
    return limited


class _Jobs:
    def __init__(self, store: Store, sweep_batch: int) -> None:
        self.closing = asyncio.Event()
        self._store = store
        self._sweep_batch = sweep_batch

    async def repeat(self, job: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while not await self._closing_within(interval_s):
            try:
                await job()
            except Exception as error:  # such as a record that is away for a moment; the next run tries again
                _log.error("housekeeping_failed", job=job.__name__, **place_of(error))

    async def sweep(self) -> None:
        for gallery in await to_thread.run_sync(check_clock, self._store):
            more = True
            while more:
                more = await to_thread.run_sync(self._store.erase_expired, gallery, self._sweep_batch)
                if await self._closing_within(_PAUSE_S):
                    return

    async def overwrite(self) -> None:
        await to_thread.run_sync(self._store.finish_erasures)
        await to_thread.run_sync(self._store.record.vectors.recheck_damaged)

    async def _closing_within(self, seconds: float) -> bool:
        with move_on_after(seconds):
            await self.closing.wait()
        return self.closing.is_set()
