"""Works off the queue of webhooks: each becomes an event `webhook_signal` of the event log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from ray.actor import ActorHandle

from actors import event_letters, event_log
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import StoreUnavailable
from levibot.resilience.dead_letters import DeadLetters
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_durable
from levibot.stores.event import Event
from levibot.stores.query_profile import PROFILE
from levibot.stores.webhook_queue import Waiting, WebhookQueue
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging
from levibot.telemetry.metrics import DEFAULT

NAME = "webhook_intake"
EVENT_TYPE = "webhook_signal"
# Where a message goes that nobody can make an event of.
DEAD_LETTERS = "webhooks"
RETRY_S = 1.0
BATCH = 100
log = structlog.get_logger()


class WebhookIntake:
    """The one consumer of the queue. What it had in hand when it died it takes again: an event is one event.

    An event that the log does not take becomes a dead letter of the queue `events`, as every other one.
    """

    def __init__(self, settings: Settings, events: event_log.Client | None = None) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        self._events = events or event_log.Client(NAME, event_letters.keeper(settings))
        self._guard = Guard(
            "webhooks:redis",
            timeout_s=2 * settings.store_timeout_s,
            attempts=1,
            reset_s=1.0,
            # Its fallback is the queue: what was not finished is taken again.
            transient=(StoreUnavailable,),
        )
        # Well below what the client takes for a silent server.
        self._wait_s = settings.store_timeout_s / 2
        self._n_stored = 0
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def status(self) -> dict[str, object]:
        """How many webhooks became events since the process began, and the problem it has now, if any."""
        return {"n_stored": self._n_stored, "problem": self._problem}

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _run(self) -> None:
        await follow_for_ever("the intake of webhooks", self._follow, self._note_problem, RETRY_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Work off the queue until a problem comes up, which is raised."""
        client = open_durable(self._settings)
        try:
            queue, letters = WebhookQueue(client), DeadLetters(client)
            while True:
                waiting: list[Waiting] = await self._guard.call(_take, queue, self._wait_s)
                self._problem = ""
                if waiting:
                    await self._store(letters, waiting)
                    await self._guard.call(_done, queue, [one.entry_id for one in waiting])
        finally:
            await client.aclose()

    async def _store(self, letters: DeadLetters, waiting: Sequence[Waiting]) -> None:
        events = []
        for one in waiting:
            try:
                events.append(event_of(one.message or {}))
            except (KeyError, TypeError, ValueError) as exc:
                DEFAULT.webhooks.labels("failed").inc()
                await self._guard.call(_bury, letters, one, f"It is no webhook of ours: {exc!r}.")
        if events:
            await self._events.append(events)
            self._n_stored += len(events)
            DEFAULT.webhooks.labels("stored").inc(len(events))


def event_of(message: dict[str, Any]) -> Event:
    """The event of a queued webhook. Raises KeyError, TypeError or ValueError on another message."""
    return Event(
        EVENT_TYPE,
        str(message["symbol"]),
        datetime.fromisoformat(message["market_time"]),
        {name: message[name] for name in ("sender", "as_of", "score", "note", "received_at")},
        str(message["trace_id"]),
        str(message["event_id"]),
    )


async def _take(queue: WebhookQueue, wait_s: float) -> list[Waiting]:
    return await queue.take(NAME, BATCH, wait_s)


async def _done(queue: WebhookQueue, entry_ids: Sequence[bytes]) -> None:
    await queue.done(entry_ids)


async def _bury(letters: DeadLetters, one: Waiting, reason: str) -> None:
    await letters.send(DEAD_LETTERS, one.text, error=reason, attempts=1)


def start(settings: Settings) -> ActorHandle:
    """The cluster's intake of webhooks, started if it is not there yet."""
    return start_detached(WebhookIntake, NAME, settings)
