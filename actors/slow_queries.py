"""Asks the actors what their queries cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors import NAMESPACE, event_log, market_feed, online_features
from actors.answers import answer_of
from levibot.errors import LeviBotError, NotReady
from levibot.resilience.guard import Guard

NAMES = (event_log.NAME, market_feed.NAME, online_features.NAME)
TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class ProcessProfile:
    """What one process says. queries: None when it did not answer, and `problem` says why."""

    process: str
    queries: list[dict[str, Any]] | None
    problem: str = ""


class SlowQueries:
    """The profiles of the actors. The named fallback of each call is an answer that names who is missing."""

    def __init__(self, process: str, names: Sequence[str] = NAMES) -> None:
        self._guards = {
            name: Guard(
                f"{process}:{name}:slow_queries",
                timeout_s=TIMEOUT_S,
                attempts=1,
                transient=(RayError, ValueError),
                unavailable=NotReady,
            )
            for name in names
        }

    async def collect(self) -> list[ProcessProfile]:
        """The profile of each actor, all asked at once: takes TIMEOUT_S at most."""
        return list(await asyncio.gather(*(self._of(name) for name in self._guards)))

    async def _of(self, name: str) -> ProcessProfile:
        try:
            return ProcessProfile(name, await self._guards[name].call(_ask, name))
        except LeviBotError as exc:
            return ProcessProfile(name, None, exc.message)


async def _ask(name: str) -> list[dict[str, Any]]:
    # The look-up may block. ValueError: there is no actor of this name.
    actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
    queries: list[dict[str, Any]] = await answer_of(actor.slow_queries.remote())
    return queries
