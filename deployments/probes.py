"""Asks each dependency of the face for a sign of life. Guards, pace and what follows are `HealthWatch`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.serve.handle import DeploymentHandle

from actors import NAMESPACE, event_log, market_feed, online_features
from actors.answers import answer_of
from levibot.errors import StoreUnavailable
from levibot.monitoring.health import Probe
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_registry, open_ticks
from levibot.stores.online import OnlineStore
from levibot.stores.postgres_pool import PoolLimits
from levibot.stores.redis import ask
from levibot.stores.ticks import TickStore

# One look at a time; what hangs in a thread holds up looks of its kind, and never the loop.
N_THREADS = 2
ONE = PoolLimits(min_size=0, max_size=1)


class Probes:
    """One probe for each dependency. State: the connections and handles that they ask through."""

    def __init__(self, settings: Settings, online: OnlineStore, router: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._online = online
        self._durable = open_durable(settings)
        self._router = router
        self._registry = open_registry(settings)
        self._ticks: TickStore | None = None
        self._actors: dict[str, ActorHandle] = {}
        self._threads = ThreadPoolExecutor(N_THREADS, "probe")

    def all(self) -> Mapping[str, Probe]:
        """By the dependency's name."""
        return {
            "router": self._of_router,
            "online_features": self._of_online_features,
            "market_feed": self._of_market_feed,
            "redis_cache": self._of_redis_cache,
            "redis_durable": self._of_redis_durable,
            "postgres": self._of_postgres,
            "clickhouse": self._of_clickhouse,
            "event_log": self._of_event_log,
            "models": self._of_models,
        }

    async def _of_router(self) -> str:
        await self._router.active_model.remote()
        return ""

    async def _of_online_features(self) -> str:
        # Its own problem is a store that it waits for: that one is called down, and not the actor too.
        await self._status_of(online_features.NAME)
        return ""

    async def _of_market_feed(self) -> str:
        await self._status_of(market_feed.NAME)
        return ""

    async def _of_event_log(self) -> str:
        await self._status_of(event_log.NAME)
        return ""

    async def _of_clickhouse(self) -> str:
        status = await self._status_of(event_log.NAME)
        return str(status["problem"]) or "ClickHouse is away." if status["is_away"] else ""

    async def _of_redis_cache(self) -> str:
        await self._online.ping()
        return ""

    async def _of_redis_durable(self) -> str:
        await ask("ping", self._durable.ping())
        return ""

    async def _of_postgres(self) -> str:
        if self._ticks is None:
            # A connection of its own: the pool of those who work may be in use to the last.
            self._ticks = await open_ticks(self._settings, limits=ONE)
        await self._ticks.ping()
        return ""

    async def _of_models(self) -> str:
        await self._in_thread(self._registry.newest_activation)
        return ""

    async def _status_of(self, name: str) -> dict[str, Any]:
        if not ray.is_initialized():
            # To ask all the same would start a cluster here.
            raise StoreUnavailable("This process is not in a Ray cluster.")
        if name not in self._actors:
            # The look-up may block; a detached actor has its handle for life, restarts included.
            self._actors[name] = await self._in_thread(lambda: ray.get_actor(name, namespace=NAMESPACE))
        actor: Any = self._actors[name]
        status: dict[str, Any] = await answer_of(actor.status.remote())
        return status

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
