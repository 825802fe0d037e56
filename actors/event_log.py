"""The owner of the event store: everything that happens is written here.

The ClickHouse engine in process allows one process a path, so one actor holds it for the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import TypeVar

import ray
import structlog
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors import NAMESPACE
from actors.detached import start_detached
from levibot.errors import DataError, LeviBotError, NotReady
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_events
from levibot.stores.events import Event, EventStore
from levibot.telemetry.logging import configure_logging

T = TypeVar("T")
# Keeps events that could not be written, given the reason. Raises LeviBotError when it cannot.
Lost = Callable[[Sequence[Event], str], Awaitable[None]]

NAME = "event_log"
MAX_BATCH = 5_000
APPEND_TIMEOUT_S = 10.0
MAX_TELLING = 100
log = structlog.get_logger()


class EventLog:
    """Appends events in groups: one write for all who wait, each answered when it is durable."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.log_level, NAME)
        # The engine belongs to one thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clickhouse")
        self._settings = settings
        self._store: EventStore | None = None
        self._waiting: list[tuple[Sequence[Event], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def append(self, events: Sequence[Event]) -> int:
        """Write events; returns how many, once they are durable. A repeat of the same event is one event."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((events, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        await done
        return len(events)

    async def read(
        self,
        limit: int,
        event_type: str | None = None,
        symbol: str | None = None,
        since: datetime | None = None,
    ) -> list[Event]:
        """The newest events first."""
        return await self._run(lambda store: store.read(limit, event_type, symbol, since))

    async def count(self) -> int:
        """How many events are stored."""
        return await self._run(EventStore.count)

    async def ping(self) -> bool:
        """True once the actor and its engine answer."""
        await self._run(EventStore.ping)
        return True

    async def _write_waiting(self) -> None:
        while self._waiting:
            group: list[tuple[Sequence[Event], asyncio.Future[None]]] = []
            n_events = 0
            while self._waiting and (not group or n_events + len(self._waiting[0][0]) <= MAX_BATCH):
                group.append(self._waiting.pop(0))
                n_events += len(group[-1][0])
            outcome = await self._write([event for events, _ in group for event in events])
            for events, done in group:
                # One caller's broken event is not the others' fault: each is written by itself.
                is_shared = isinstance(outcome, DataError) and len(group) > 1
                problem = await self._write(events) if is_shared else outcome
                if done.done():
                    continue
                if problem is None:
                    done.set_result(None)
                else:
                    done.set_exception(problem)

    async def _write(self, events: Sequence[Event]) -> Exception | None:
        try:
            await self._run(partial(_append, events))
        except Exception as exc:  # noqa: BLE001 - handed to each caller that waits
            return exc
        return None

    async def _run(self, call: Callable[[EventStore], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._with_store, call)

    def _with_store(self, call: Callable[[EventStore], T]) -> T:
        # Opened here and not in the constructor: an actor whose constructor fails is never restarted.
        if self._store is None:
            self._store = open_events(self._settings)
        return call(self._store)


def _append(events: Sequence[Event], store: EventStore) -> None:
    store.append(events)


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
        await ray.get_actor(NAME, namespace=NAMESPACE).append.remote(events)


def start(settings: Settings) -> ActorHandle:
    """The cluster's event log, started if it is not there yet."""
    # An append that meets the actor's death is sent again: events carry their own identity.
    return start_detached(EventLog, NAME, settings, max_task_retries=-1)
