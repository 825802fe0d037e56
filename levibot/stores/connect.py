"""Opens each store at the address that this run has for it."""

from __future__ import annotations

from redis.asyncio import Redis

from levibot.settings import Settings
from levibot.stores.embedded import endpoints
from levibot.stores.events import EventStore
from levibot.stores.online import OnlineStore
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore


async def open_ticks(settings: Settings) -> TickStore:
    """The tick store. Raises NotReady before the first start, StoreUnavailable when it does not answer."""
    return await TickStore.open(endpoints(settings).postgres_dsn, timeout_s=settings.store_timeout_s)


def open_durable(settings: Settings) -> Redis:
    """The Redis of what must be kept: weights, dead letters, idempotency keys, rate limits."""
    return open_redis(endpoints(settings).redis_url, timeout_s=settings.store_timeout_s)


def open_volatile(settings: Settings) -> Redis:
    """The Redis of what may be evicted: features, signals, caches."""
    return open_redis(endpoints(settings).redis_cache_url, timeout_s=settings.store_timeout_s)


def open_online(settings: Settings, view_version: str) -> OnlineStore:
    """The online store of this market and view; connects at the first call."""
    return OnlineStore.open(
        endpoints(settings).redis_cache_url,
        settings.market_id,
        view_version,
        clock=settings.clock(),
        interval=settings.interval,
        fresh_bars=settings.fresh_bars,
        ttl_s=settings.feature_ttl_s,
        timeout_s=settings.store_timeout_s,
    )


def open_events(settings: Settings) -> EventStore:
    """The event store. In process: one owner for the whole cluster."""
    return EventStore.open(endpoints(settings).clickhouse)


def open_registry(settings: Settings) -> Registry:
    """The model registry of this state folder."""
    return Registry(settings.home / "models")
