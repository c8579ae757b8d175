"""What the service does by itself, now and then: erases what has expired, overwrites what erasures left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from anyio import to_thread

from cloud_service.record.queries import PinnedGallery
from cloud_service.settings import RetentionSettings
from cloud_service.store import Store
from shared.logs import get_logger, place_of

_log = get_logger(__name__)

# Between two batches of a sweep, so that writers who wait get their turn.
_PAUSE = 0.02


@asynccontextmanager
async def housekeeping(store: Store, settings: RetentionSettings) -> AsyncIterator[None]:
    """Runs beside the service; when it ends, so does this, after the transaction that runs."""
    house = _House(store, settings.sweep_templates)
    tasks = [
        asyncio.create_task(house.again_and_again(house.sweep, settings.sweep_seconds)),
        asyncio.create_task(house.again_and_again(house.finish, settings.finish_seconds)),
    ]
    try:
        yield
    finally:
        house.closing.set()  # not cancelled: a thread would go on with a record that is closed
        await asyncio.gather(*tasks)


def look(store: Store) -> list[PinnedGallery]:
    """Compares the clocks, mends what a wrong one left, and gives the galleries in which templates expire."""
    retention = store.retention
    store.record.clock.observe(retention.time_seen())
    limited = retention.limited()
    if limited:
        retention.keep_time()
    for gallery in limited:
        store.redate(gallery)
    return limited


class _House:
    def __init__(self, store: Store, templates_a_batch: int) -> None:
        self.closing = asyncio.Event()
        self._store = store
        self._templates_a_batch = templates_a_batch

    async def again_and_again(self, job: Callable[[], Awaitable[None]], seconds: float) -> None:
        while not await self._closing_within(seconds):
            try:
                await job()
            except Exception as error:  # a record that is away for a moment: the next time it is there
                _log.error("housekeeping_failed", job=job.__name__, **place_of(error))

    async def sweep(self) -> None:
        for gallery in await to_thread.run_sync(look, self._store):
            more = True
            while more:
                more = await to_thread.run_sync(self._store.erase_expired, gallery, self._templates_a_batch)
                if await self._closing_within(_PAUSE):
                    return

    async def finish(self) -> None:
        await to_thread.run_sync(self._store.finish_erasures)
        await to_thread.run_sync(self._store.record.vectors.recheck_damaged)

    async def _closing_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.closing.wait()
        except TimeoutError:
            return False
        return True
