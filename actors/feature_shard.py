"""One shard of the live features: computes its symbols' part of a cross-section, and writes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors import NAMESPACE
from actors.answers import answer_of
from actors.detached import start_detached
from levibot.errors import NotReady, StoreUnavailable
from levibot.features.materialise import Computed, ShardWindow
from levibot.features.shards import Shard
from levibot.features.views import CORE
from levibot.learning.training import window_bars
from levibot.resilience.guard import Guard
from levibot.settings import Settings
from levibot.stores.connect import open_ticks
from levibot.stores.query_profile import PROFILE
from levibot.stores.ticks import TickStore
from levibot.telemetry.exposition import Family, families
from levibot.telemetry.logging import configure_logging

PART_TIMEOUT_S = 10.0


class FeatureShard:
    """Holds its own window of bars. State: that window and the connection that it is read by.

    After a crash the window is read again from the tick store.
    """

    def __init__(self, settings: Settings, index: int) -> None:
        configure_logging(settings.log_level, name_of(index))
        self._settings = settings
        self._shard = Shard(index, settings.feature_shards)
        # Its fallback is the caller's: without this part it writes the others.
        self._guard = Guard(
            name_of(index), timeout_s=PART_TIMEOUT_S, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )
        self._ticks: TickStore | None = None
        self._window: ShardWindow | None = None
        self._computing = asyncio.Lock()

    async def part(self, as_of: datetime) -> Computed | None:
        """Its symbols' features at the close `as_of`. Raises StoreUnavailable or StoreError."""
        # A caller that gave up on the last answer asks again before that is done.
        async with self._computing:
            return await self._guard.call(self._part, as_of)

    async def metrics(self) -> list[Family]:
        """This process's metrics, for the page that shows all of them."""
        return families()

    async def slow_queries(self) -> list[dict[str, Any]]:
        """What this process's queries cost, most first."""
        return [asdict(cost) for cost in PROFILE.top()]

    async def _part(self, as_of: datetime) -> Computed | None:
        if self._window is None:
            self._ticks = self._ticks or await open_ticks(self._settings)
            self._window = shard_window(self._settings, self._ticks, self._shard)
        await self._window.read(as_of)
        return self._window.compute()


class RemoteShard:
    """A shard in another process, as the writer of the cross-section asks it.

    The named fallback is a cross-section without its symbols: their older vectors grow stale, and say so.
    """

    def __init__(self, index: int) -> None:
        self._name = name_of(index)
        self._guard = Guard(
            f"online_features:{self._name}",
            timeout_s=PART_TIMEOUT_S,
            attempts=1,
            reset_s=1.0,
            transient=(RayError, ValueError),
            unavailable=NotReady,
        )

    async def part(self, as_of: datetime) -> Computed | None:
        """Its part at the close `as_of`. Raises NotReady when it does not answer, or what it raised."""
        return await self._guard.call(self._ask, as_of)

    async def _ask(self, as_of: datetime) -> Computed | None:
        # The look-up may block. ValueError: there is no actor of this name.
        actor = await asyncio.to_thread(ray.get_actor, self._name, namespace=NAMESPACE)
        computed: Computed | None = await answer_of(actor.part.remote(as_of))
        return computed


def shard_window(settings: Settings, ticks: TickStore, shard: Shard) -> ShardWindow:
    """The window of bars that a shard of this run keeps."""
    return ShardWindow(
        ticks,
        market_id=settings.market_id,
        symbols=settings.symbols,
        interval=settings.interval,
        view=CORE,
        rows=window_bars(),
        shard=shard,
    )


def name_of(index: int) -> str:
    """The name of a shard's actor. The first shard is the writer's own."""
    return f"feature_shard_{index}"


def start(settings: Settings, index: int) -> ActorHandle:
    """The cluster's actor of that shard, started if it is not there yet."""
    return start_detached(FeatureShard, name_of(index), settings, index)
