"""The owner of the event store: everything that happens is written here, and read from here.

The ClickHouse engine in process allows one process a path, so one actor holds it for the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from threading import Lock
from typing import Any, TypeVar

import ray
import structlog
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors import NAMESPACE
from actors.answers import answer_of
from actors.detached import start_detached
from levibot.errors import LeviBotError, NotReady, StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_event_spool, open_events
from levibot.stores.event_thread import EventThread
from levibot.stores.event_writer import EventWriter
from levibot.stores.events import Event, EventPage, EventQuery, EventStore, HourlyCount
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

T = TypeVar("T")
# Keeps events that could not be written, given the reason. Raises LeviBotError when it cannot.
Lost = Callable[[Sequence[Event], str], Awaitable[None]]

NAME = "event_log"
APPEND_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 2.0
MAX_TELLING = 100
log = structlog.get_logger()


class EventLog:
    """Appends events in groups. A caller is answered when its events are durable, wherever that is."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        opening = Lock()

        def open_store() -> EventStore:
            # The first one makes the tables, and two would make them at once.
            with opening:
                return open_events(settings)

        # Opened at the first call and not here: an actor whose constructor fails is never restarted.
        # Two, since an append waits for the disk several times, and a page must not wait for an append.
        self._writing = EventThread(open_store)
        self._reading = EventThread(open_store)
        self._writer = EventWriter(self._writing, lambda: open_event_spool(settings))
        # What an earlier process left on disk does not wait for the next event.
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def append(self, events: Sequence[Event]) -> int:
        """Write events; returns how many, once they are durable. A repeat of the same event is one event."""
        return await self._writer.append(events)

    async def page(self, query: EventQuery) -> EventPage:
        """One page of the list, newest first. Raises StoreUnavailable while ClickHouse is away."""
        return await self._ask(lambda store: store.page(query))

    async def read(
        self,
        limit: int,
        event_type: str | None = None,
        symbol: str | None = None,
        since: datetime | None = None,
    ) -> list[Event]:
        """The newest events first."""
        return await self._ask(lambda store: store.read(limit, event_type, symbol, since))

    async def hourly(self, since: datetime) -> list[HourlyCount]:
        """How many events each hour and type has, oldest first."""
        return await self._ask(lambda store: store.hourly(since))

    async def count(self) -> int:
        """How many events are stored."""
        return await self._ask(EventStore.count)

    async def ping(self) -> bool:
        """True once the actor and its engine answer."""
        await asyncio.gather(self._writing.ask(EventStore.ping), self._reading.ask(EventStore.ping))
        return True

    async def status(self) -> dict[str, int | bool | str]:
        """What waits on disk, and why ClickHouse takes nothing, if it does not."""
        return await self._writer.status()

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def close(self) -> None:
        """Write what waits and let go of engine and spool."""
        await self._starting
        await self._writer.close()
        await self._writing.close()
        await self._reading.close()

    async def _ask(self, call: Callable[[EventStore], T]) -> T:
        # A hanging store would keep every reader for its whole time-out.
        if self._writer.is_away:
            raise StoreUnavailable(
                "ClickHouse is away; events are kept on disk until it is back.",
                hint="Try again later. Why it is away stands in the log of the process event_log.",
            )
        return await self._reading.ask(call)

    async def _start(self) -> None:
        try:
            await self._writer.start()
        except StoreError as exc:
            log.error("the event spool cannot be opened", reason=str(exc))


class Client:
    """Tells the event log what happened. What the log cannot take is handed to `lost`, to be kept for later.

    The last fallback of this call is the JSON log line: an event is never the reason that work stops.
    """

    def __init__(self, process: str, lost: Lost | None = None) -> None:
        self._lost = lost
        self._guard = Guard(
            f"{process}:{NAME}",
            timeout_s=APPEND_TIMEOUT_S,
            transient=(RayError, ValueError),
            unavailable=NotReady,
        )
        self._telling: set[asyncio.Task[None]] = set()

    def tell(self, events: Sequence[Event]) -> None:
        """Write events without waiting for it: work must not be late because its record is.

        A log that hangs may have MAX_TELLING writes waiting; what comes on top is only logged.
        """
        if len(self._telling) >= MAX_TELLING:
            log.error("events were not written", count=len(events), reason="The event log does not keep up.")
            return
        task = asyncio.get_running_loop().create_task(self.append(events))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def append(self, events: Sequence[Event]) -> None:
        """Write events, or log that they were not written."""
        try:
            await self._guard.call(self._send, events)
        except (LeviBotError, RayError, ValueError) as exc:
            reason = str(exc)
            try:
                if self._lost is not None:
                    await self._lost(events, reason)
                    log.warning("events are kept for later", count=len(events), reason=reason)
                    return
            except LeviBotError as problem:
                reason = f"{reason} They are not kept for later either: {problem}"
            log.error("events were not written", count=len(events), reason=reason)

    async def _send(self, events: Sequence[Event]) -> None:
        # ValueError: there is no actor of this name.
        await answer_of(ray.get_actor(NAME, namespace=NAMESPACE).append.remote(events))


class Reader:
    """Reads the event log from another process.

    The named fallback of this call is an error that says so, within READ_TIMEOUT_S, and at once while the
    circuit is open: nothing else waits for it.
    """

    def __init__(self, process: str) -> None:
        self._guard = Guard(
            f"{process}:{NAME}:read",
            timeout_s=READ_TIMEOUT_S,
            attempts=1,
            transient=(RayError, ValueError),
            unavailable=StoreUnavailable,
        )
        self._actor: ActorHandle | None = None

    @property
    def state(self) -> str:
        """Of the circuit to the log."""
        return self._guard.state

    async def page(self, query: EventQuery) -> EventPage:
        """One page of the events. Raises StoreUnavailable when the log does not answer."""
        return await self._guard.call(self._page, query)

    async def _page(self, query: EventQuery) -> EventPage:
        if self._actor is None:
            # The look-up may block. It is kept: a detached actor has its handle for life, restarts included.
            self._actor = await asyncio.to_thread(ray.get_actor, NAME, namespace=NAMESPACE)
        actor: Any = self._actor
        page: EventPage = await answer_of(actor.page.remote(query))
        return page


def start(settings: Settings) -> ActorHandle:
    """The cluster's event log, started if it is not there yet."""
    # An append that meets the actor's death is sent again: events carry their own identity.
    return start_detached(EventLog, NAME, settings, max_task_retries=-1)
