"""Asks the actors the same question: what their queries cost, what their metrics are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from actors import (
    NAMESPACE,
    dead_letter_replayer,
    ensemble_weights,
    event_log,
    feature_history,
    feature_monitor,
    feature_shard,
    market_feed,
    online_features,
    outside_data,
    shadow_ledger,
    shadow_models,
    webhook_intake,
)
from actors.answers import answer_of
from levibot.errors import LeviBotError, NotReady
from levibot.resilience.guard import Guard
from levibot.settings import Settings

NAMES = (
    event_log.NAME,
    market_feed.NAME,
    online_features.NAME,
    feature_history.NAME,
    dead_letter_replayer.NAME,
    feature_monitor.NAME,
    outside_data.NAME,
    shadow_ledger.NAME,
    ensemble_weights.NAME,
    webhook_intake.NAME,
)
TIMEOUT_S = 1.0


def names(settings: Settings) -> tuple[str, ...]:
    """The actors of a run with these settings."""
    shards = (feature_shard.name_of(index) for index in range(1, settings.feature_shards))
    return (*NAMES, *shards, *((shadow_models.NAME,) if settings.shadow_versions else ()))


@dataclass(frozen=True, slots=True)
class Said:
    """What one process says. answer: None when it did not answer, and `problem` says why."""

    process: str
    answer: Any
    problem: str = ""


class Processes:
    """The actors. The named fallback of each call is an answer that names who is missing."""

    def __init__(self, process: str, names: Sequence[str] = NAMES) -> None:
        self._guards = {
            name: Guard(
                f"{process}:{name}:ask",
                timeout_s=TIMEOUT_S,
                attempts=1,
                transient=(RayError, ValueError),
                unavailable=NotReady,
            )
            for name in names
        }

    async def ask(self, method: str) -> list[Said]:
        """What that method of each actor answers, all asked at once: takes TIMEOUT_S at most."""
        return list(await asyncio.gather(*(self._of(name, method) for name in self._guards)))

    async def _of(self, name: str, method: str) -> Said:
        try:
            return Said(name, await self._guards[name].call(_ask, name, method))
        except LeviBotError as exc:
            return Said(name, None, exc.message)


async def _ask(name: str, method: str) -> Any:
    # The look-up may block. ValueError: there is no actor of this name.
    actor = await asyncio.to_thread(ray.get_actor, name, namespace=NAMESPACE)
    return await answer_of(getattr(actor, method).remote())
