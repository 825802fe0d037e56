"""Delivers dead letters: every few seconds what is due in each queue goes to the queue's handler."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import structlog
from ray.actor import ActorHandle

from actors import event_letters
from actors.detached import start_detached
from actors.following import follow_for_ever
from levibot.errors import StoreUnavailable
from levibot.resilience.dead_letters import DeadLetters, Handler, Handlers, Replayed
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_durable
from levibot.stores.query_profile import PROFILE
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

NAME = "dead_letter_replayer"
POLL_S = 2.0
# A pass over a queue; one that is cut short goes on at the next turn.
PASS_TIMEOUT_S = 300.0
log = structlog.get_logger()


class DeadLetterReplayer:
    """The scheduled consumer of dead letters. What it has in hand when it dies goes back to its queue."""

    def __init__(self, settings: Settings, handlers: Handlers | None = None) -> None:
        configure_logging(settings.log_level, NAME)
        self._settings = settings
        if handlers is None:
            handlers = {event_letters.QUEUE: event_letters.appender(event_letters.append_to_log)}
        self._handlers = handlers
        # Its fallback is to wait: the letters stay where they are.
        self._guard = Guard(
            NAME, timeout_s=PASS_TIMEOUT_S, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )
        self._delivered = dict.fromkeys(handlers, 0)
        self._problem = ""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, object]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def status(self) -> dict[str, object]:
        """How many letters it has delivered, by queue, and the problem that it has now, if any."""
        return {"delivered": dict(self._delivered), "problem": self._problem}

    async def _run(self) -> None:
        await follow_for_ever("the replay of dead letters", self._follow, self._note_problem, POLL_S)

    def _note_problem(self, problem: str) -> None:
        self._problem = problem

    async def _follow(self) -> None:
        """Replay again and again until a problem comes up, which is raised."""
        client = open_durable(self._settings)
        try:
            letters = DeadLetters(client)
            while True:
                for queue, handler in self._handlers.items():
                    done: Replayed = await self._guard.call(_replay, letters, queue, handler)
                    self._delivered[queue] += done.delivered
                self._problem = ""
                await asyncio.sleep(POLL_S)
        finally:
            await client.aclose()


async def _replay(letters: DeadLetters, queue: str, handler: Handler) -> Replayed:
    return await letters.replay(queue, handler, consumer=NAME)


def start(settings: Settings) -> ActorHandle:
    """The cluster's replayer of dead letters, started if it is not there yet."""
    return start_detached(DeadLetterReplayer, NAME, settings)
