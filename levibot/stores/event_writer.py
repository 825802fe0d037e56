"""Makes events durable: in ClickHouse, or on disk for as long as ClickHouse does not take them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

import structlog

from levibot.errors import StoreError, StoreUnavailable
from levibot.stores.event import Event, EventRow
from levibot.stores.event_spool import EventSpool, Waiting
from levibot.stores.event_thread import EventThread
from levibot.stores.events import EventStore
from levibot.telemetry.metrics import DEFAULT, Metrics

T = TypeVar("T")

# A batch goes out when it has so many events, or its first one has waited so long.
MAX_BATCH, MAX_BATCH_BYTES = 5_000, 8 * 1024 * 1024
LINGER_S = 0.05
# What may wait in memory. What comes on top is refused: the disk does not keep up.
MAX_WAITING_BYTES = 64 * 1024 * 1024
# An insert that takes longer is spooled as well: it may have been written, and a repeat does no harm.
WRITE_TIMEOUT_S = 3.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 2.0
log = structlog.get_logger()


class _Batch(NamedTuple):
    """What one caller waits for."""

    rows: list[EventRow]
    n_bytes: int
    done: asyncio.Future[None]


class EventWriter:
    """Writes in groups, each caller answered when its events are durable. For one event loop.

    While ClickHouse takes no events they go to the spool, in order, and from there to ClickHouse once it is
    back; new ones queue up behind them. Acknowledged means on disk, in one of the two.
    """

    def __init__(
        self,
        store: EventThread,
        open_spool: Callable[[], EventSpool],
        *,
        linger_s: float = LINGER_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._store = store
        self._open_spool = open_spool
        self._linger_s = linger_s
        self._write_timeout_s = write_timeout_s
        self._max_waiting_bytes = max_waiting_bytes
        self._metrics = metrics
        # Its own thread: the store's may hang for seconds.
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="event-spool")
        self._spool: EventSpool | None = None
        self._n_spooled = 0
        self._waiting: list[_Batch] = []
        self._n_waiting_bytes = 0
        self._is_away = False
        self._problem = ""
        self._writer: asyncio.Task[None] | None = None
        self._replayer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Send what an earlier process left in the spool. Raises StoreError when it cannot be opened."""
        await self._on_disk(lambda _: None)
        self._replay_soon()

    async def append(self, events: Sequence[Event]) -> int:
        """Write events; returns how many, once they are durable. A repeat of the same event is one event.

        Raises DataError, with nothing written, when one of them cannot be stored; StoreUnavailable when spool
        or memory are full, StoreError when the disk does not take them. What was refused is counted.
        """
        rows = [EventRow.of(event) for event in events]
        if not rows:
            return 0
        n_bytes = sum(row.n_bytes for row in rows)
        if self._n_waiting_bytes + n_bytes > self._max_waiting_bytes:
            self._metrics.events_refused.inc(len(rows))
            raise StoreUnavailable(
                f"{self._n_waiting_bytes} bytes of events wait to be written, and {n_bytes} more would be "
                f"beyond {self._max_waiting_bytes}.",
                hint="The events come faster than the disk takes them.",
            )
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Batch(rows, n_bytes, done))
        self._n_waiting_bytes += n_bytes
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await done
        return len(rows)

    @property
    def is_away(self) -> bool:
        """Whether ClickHouse took no events when it was last asked to."""
        return self._is_away

    @property
    def n_spooled(self) -> int:
        """How many events wait on disk."""
        return self._n_spooled

    async def status(self) -> dict[str, int | bool | str]:
        """What waits on disk, what was set aside there, and why ClickHouse takes nothing, if it does not."""
        n_bytes, n_corrupt = await self._on_disk(lambda spool: (spool.n_bytes, spool.n_corrupt))
        return {
            "is_away": self._is_away,
            "problem": self._problem,
            "n_spooled": self._n_spooled,
            "spool_bytes": n_bytes,
            "n_corrupt": n_corrupt,
        }

    async def close(self) -> None:
        """Write what waits, then let go of the spool; what is in it stays there for the next process."""
        if self._writer is not None:
            await self._writer
        if self._replayer is not None:
            self._replayer.cancel()
            await asyncio.gather(self._replayer, return_exceptions=True)
        await asyncio.wrap_future(self._disk.submit(self._close_spool))
        self._disk.shutdown(wait=False)

    async def _write_waiting(self) -> None:
        while self._waiting:
            if sum(len(batch.rows) for batch in self._waiting) < MAX_BATCH:
                await asyncio.sleep(self._linger_s)
            group = self._next_group()
            problem = await self._write([row for batch in group for row in batch.rows])
            self._n_waiting_bytes -= sum(batch.n_bytes for batch in group)
            for batch in group:
                # Who has gone away is not told.
                if batch.done.done():
                    continue
                if problem is None:
                    batch.done.set_result(None)
                else:
                    batch.done.set_exception(problem)

    def _next_group(self) -> list[_Batch]:
        """The oldest batches that one write takes, at least one."""
        group = [self._waiting.pop(0)]
        n_events, n_bytes = len(group[0].rows), group[0].n_bytes
        while self._waiting:
            n_events += len(self._waiting[0].rows)
            n_bytes += self._waiting[0].n_bytes
            if n_events > MAX_BATCH or n_bytes > MAX_BATCH_BYTES:
                break
            group.append(self._waiting.pop(0))
        return group

    async def _write(self, rows: list[EventRow]) -> Exception | None:
        """Write them to ClickHouse or to the spool; returns why neither was possible."""
        if self._spool is None:
            # Without a spool ClickHouse may take them all the same.
            with suppress(StoreError):
                await self.start()
        if await self._is_written(rows):
            return None
        try:
            await self._on_disk(lambda spool: spool.append(rows))
        except Exception as exc:  # noqa: BLE001 - handed to each caller that waits
            self._metrics.events_refused.inc(len(rows))
            log.error("events were refused", count=len(rows), reason=str(exc) or repr(exc))
            return exc
        finally:
            self._replay_soon()
        return None

    async def _is_written(self, rows: list[EventRow]) -> bool:
        """Write them to ClickHouse, if it is there and nothing older waits; returns whether it has them."""
        if self._n_spooled and not self._is_away and self._n_spooled <= MAX_BATCH and self._replayer:
            # The last of it is on its way. Without a pause it would never run empty under steady writing.
            await asyncio.wait({self._replayer}, timeout=self._write_timeout_s)
        if self._is_away or self._n_spooled:
            return False
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._store.run(partial(_append, rows))
        except TimeoutError as exc:
            self._go_away(exc, f"It has not taken {len(rows)} events within {self._write_timeout_s:g} s.")
            return False
        except Exception as exc:  # noqa: BLE001 - whatever it is, the events are kept
            self._go_away(exc)
            return False
        return True

    def _replay_soon(self) -> None:
        self._show()
        if self._replayer is None or self._replayer.done():
            self._replayer = asyncio.create_task(self._replay())

    async def _replay(self) -> None:
        """Send the spool to ClickHouse, oldest first, until it is empty and ClickHouse is there."""
        wait_s = FIRST_RETRY_S
        while True:
            try:
                oldest = await self._on_disk(lambda spool: spool.oldest(MAX_BATCH))
                if oldest is None:
                    if self._is_away:
                        # What went away with nothing to spool, its disk being full, comes back by itself too.
                        await self._store.run(_ping)
                        self._come_back()
                    if self._n_spooled:
                        continue
                    break
                await self._store.run(partial(_append, oldest.rows))
                self._come_back()
                await self._on_disk(partial(_drop, oldest))
            except Exception as exc:  # noqa: BLE001 - it is tried again for as long as something waits
                self._go_away(exc)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_RETRY_S)
            else:
                wait_s = FIRST_RETRY_S
                self._show()
        self._show()

    async def _on_disk(self, call: Callable[[EventSpool], T]) -> T:
        return await asyncio.wrap_future(self._disk.submit(self._with_spool, call))

    def _with_spool(self, call: Callable[[EventSpool], T]) -> T:
        if self._spool is None:
            self._spool = self._open_spool()
        try:
            return call(self._spool)
        finally:
            self._n_spooled = self._spool.n_events

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _go_away(self, exc: Exception, reason: str = "") -> None:
        reason = reason or str(exc) or repr(exc)
        if not self._is_away:
            log.error("ClickHouse takes no events; they go to the spool", reason=reason)
        self._is_away, self._problem = True, reason

    def _come_back(self) -> None:
        if self._is_away:
            log.info("ClickHouse takes events again")
        self._is_away, self._problem = False, ""

    def _show(self) -> None:
        self._metrics.events_spooled.set(self._n_spooled)


def _append(rows: Sequence[EventRow], store: EventStore) -> None:
    store.append_rows(rows)


def _ping(store: EventStore) -> None:
    store.ping()


def _drop(waiting: Waiting, spool: EventSpool) -> None:
    spool.drop(waiting)
