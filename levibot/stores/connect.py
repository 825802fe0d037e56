"""Opens each store at the address that this run has for it."""

from __future__ import annotations

from levibot.settings import Settings
from levibot.stores.embedded import endpoints
from levibot.stores.events import EventStore
from levibot.stores.online import OnlineStore
from levibot.stores.postgres_pool import PoolLimits
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore


async def open_ticks(settings: Settings) -> TickStore:
    """The tick store. Raises NotReady before the first start, StoreUnavailable when it does not answer."""
    return await TickStore.open(
        endpoints(settings).postgres_dsn,
        timeout_s=settings.store_timeout_s,
        limits=PoolLimits(settings.postgres_pool_min, settings.postgres_pool_max),
        replica_dsn=settings.postgres_replica_dsn,
    )


def open_online(settings: Settings, view_version: str) -> OnlineStore:
    """The online store of this market and view; connects at the first call."""
    return OnlineStore.open(
        endpoints(settings).redis_url,
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
