"""Events under fault: in the store alone, and by the writer that spools what the store does not take."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from urllib.parse import urlsplit

from levibot.errors import StoreError, StoreUnavailable
from levibot.stores.event_spool import EventSpool
from levibot.stores.event_thread import EventThread
from levibot.stores.event_writer import EventWriter
from levibot.stores.events import MAX_READ, Event, EventQuery, EventStore
from tests.faults.subject import NOON, TIMEOUT_S, Item

EVENT_TYPE = "fault"
# Of the server's calls; the writer itself waits for TIMEOUT_S, and then spools.
SERVER_TIMEOUT_S = 3.0
DRAINED_WITHIN_S = 15.0
PAGE = 5_000


class EventsSubject:
    """ClickHouse in process: one event an item. The process that opens it owns the folder."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, where: str) -> EventsSubject:
        return cls(EventStore.open(where))

    async def write(self, item: Item) -> None:
        self._store.append([event_of(item)])

    async def stored(self, streams: int, n: int) -> list[Item]:
        events = self._store.read(MAX_READ, EVENT_TYPE)
        assert len(events) < MAX_READ
        return items_of(events, n)

    async def close(self) -> None:
        self._store.close()


class SpooledEventsSubject:
    """ClickHouse over HTTP behind the writer with its spool: one event an item.

    where: `http://HOST:PORT?BYTES#FOLDER`, the bound of the spool and its folder, which one process owns.
    """

    def __init__(self, thread: EventThread, writer: EventWriter) -> None:
        self._thread = thread
        self._writer = writer

    @classmethod
    async def open(cls, where: str) -> SpooledEventsSubject:
        parts = urlsplit(where)
        thread = EventThread(lambda: EventStore.open(f"http://{parts.netloc}", timeout_s=SERVER_TIMEOUT_S))
        writer = EventWriter(
            thread,
            lambda: EventSpool.open(Path(parts.fragment), int(parts.query)),
            write_timeout_s=TIMEOUT_S,
        )
        await writer.start()
        return cls(thread, writer)

    async def write(self, item: Item) -> None:
        try:
            await self._writer.append([event_of(item)])
        except StoreError as exc:
            # A full disk is no passing reason by itself. In a drill it is: the disk gets room again.
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.ENOSPC:
                raise StoreUnavailable(exc.message, hint=exc.hint) from exc
            raise

    async def stored(self, streams: int, n: int) -> list[Item]:
        async with asyncio.timeout(DRAINED_WITHIN_S):
            while self._writer.is_away or self._writer.n_spooled:  # noqa: ASYNC110 - the writer tells nobody
                await asyncio.sleep(0.02)
        events: list[Event] = []
        query = EventQuery(PAGE, EVENT_TYPE)
        while True:
            page = await self._thread.ask(lambda store, query=query: store.page(query))  # type: ignore[misc]
            events += page.events
            if page.next_cursor is None:
                return items_of(events, n)
            query = EventQuery(PAGE, EVENT_TYPE, after=page.next_cursor)

    async def close(self) -> None:
        await self._writer.close()
        await self._thread.close()


def event_of(item: Item) -> Event:
    stream, number = item
    return Event(EVENT_TYPE, f"W{stream}", NOON, {"number": number}, event_id=f"{stream}-{number}")


def items_of(events: list[Event], n: int) -> list[Item]:
    items = [(int(event.symbol[1:]), int(event.payload["number"])) for event in events]
    return [item for item in items if item[1] < n]
