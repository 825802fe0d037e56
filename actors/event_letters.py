"""Events that the log could not take: kept as dead letters, and appended once it takes them again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import ray
from ray.exceptions import RayError

from actors import NAMESPACE, event_log
from levibot.errors import DataError, NotReady, StoreUnavailable
from levibot.resilience.dead_letters import DeadLetters, Handler
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_durable
from levibot.stores.events import Event

QUEUE = "events"
# What a letter holds at most: a letter has a limit in bytes.
MAX_EVENTS = 100
# The client of the log tries so often.
ATTEMPTS = 3
APPEND_TIMEOUT_S = 10.0


def keeper(settings: Settings) -> event_log.Lost:
    """What a client of the event log does with events that it does not take."""
    guard = Guard(
        "dead_letters:redis",
        timeout_s=2 * settings.store_timeout_s,
        attempts=2,
        # The fallback is the client's line in the log.
        transient=(StoreUnavailable,),
    )

    async def keep(events: Sequence[Event], reason: str) -> None:
        # Needed rarely: no connection is held for it.
        client = open_durable(settings)
        try:
            letters = DeadLetters(client)
            for first in range(0, len(events), MAX_EVENTS):
                await guard.call(_send, letters, events[first : first + MAX_EVENTS], reason)
        finally:
            await client.aclose()

    return keep


async def _send(letters: DeadLetters, events: Sequence[Event], reason: str) -> None:
    # Sent twice when an answer is lost: an event carries its own identity, so that it still is one event.
    trace_id = next((event.trace_id for event in events if event.trace_id), "")
    await letters.send(QUEUE, pack(events), error=reason, attempts=ATTEMPTS, trace_id=trace_id)


def appender(append: Callable[[Sequence[Event]], Awaitable[object]]) -> Handler:
    """The handler of the queue. A repeat of an event is one event."""
    guard = Guard(
        "dead_letters:event_log",
        timeout_s=APPEND_TIMEOUT_S,
        # The fallback is the queue: what fails stays there and is tried again later.
        attempts=1,
        transient=(RayError, ValueError),
        unavailable=NotReady,
    )

    async def handle(message: Any) -> None:
        await guard.call(append, unpack(message))

    return handle


async def append_to_log(events: Sequence[Event]) -> None:
    """Write events to the cluster's event log. Raises ValueError where there is none."""
    await ray.get_actor(event_log.NAME, namespace=NAMESPACE).append.remote(events)


def pack(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events as JSON values."""
    return [asdict(event) | {"ts": event.ts.isoformat()} for event in events]


def unpack(message: Any) -> list[Event]:
    """The events of a letter. Raises DataError where it holds something else."""
    try:
        return [Event(**fields | {"ts": datetime.fromisoformat(fields["ts"])}) for fields in message]
    except (TypeError, KeyError, ValueError) as exc:
        raise DataError(f"The letter does not hold events: {type(exc).__name__}: {exc}.") from exc
