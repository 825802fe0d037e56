"""The one thread that an event store belongs to, and the bound on how many readers may wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from levibot.errors import StoreUnavailable
from levibot.stores.events import EventStore

T = TypeVar("T")

# A store that hangs must not gather readers without end: those who wait have given up long before.
MAX_ASKING = 16


class EventThread:
    """Opens the store at the first call, and again after one that failed. For one event loop."""

    def __init__(self, open_store: Callable[[], EventStore]) -> None:
        self._open_store = open_store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clickhouse")
        self._store: EventStore | None = None
        self._n_asking = 0

    async def run(self, call: Callable[[EventStore], T]) -> T:
        """What `call(store)` returns. Raises what it raises."""
        return await asyncio.wrap_future(self._thread.submit(self._with_store, call))

    async def ask(self, call: Callable[[EventStore], T]) -> T:
        """The same for those who read. Raises StoreUnavailable when too many wait."""
        if self._n_asking >= MAX_ASKING:
            raise StoreUnavailable(f"The event store is busy: {self._n_asking} reads wait for it.")
        self._n_asking += 1
        future = self._thread.submit(self._with_store, call)
        # Counted until it has ended in its thread, not until its caller has given up.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._end_asking))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Close the store, for another process to open it, and end the thread."""
        await asyncio.wrap_future(self._thread.submit(self._close_store))
        self._thread.shutdown(wait=False)

    def _with_store(self, call: Callable[[EventStore], T]) -> T:
        if self._store is None:
            self._store = self._open_store()
        return call(self._store)

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _end_asking(self) -> None:
        self._n_asking -= 1
