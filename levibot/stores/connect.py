"""Opens each store at the address that this run has for it."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis

from levibot.features.view import FeatureView
from levibot.settings import Settings
from levibot.stores.embedded import endpoints
from levibot.stores.event_spool import EventSpool
from levibot.stores.events import EventStore
from levibot.stores.model_bucket import ModelBucket
from levibot.stores.model_files import ModelFolder
from levibot.stores.online import OnlineStore
from levibot.stores.postgres_pool import PoolLimits
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.signal_stream import SignalStream
from levibot.stores.ticks import TickStore
from levibot.stores.trial_journal import TrialJournal

# An insert of some thousand events, and a frozen server is noticed well before its clients give up.
EVENTS_TIMEOUT_S = 5.0


async def open_ticks(settings: Settings, *, limits: PoolLimits | None = None) -> TickStore:
    """The tick store. Raises NotReady before the first start, StoreUnavailable when it does not answer.

    limits: of its pool, default those of the settings.
    """
    return await TickStore.open(
        settings.postgres_dsn or endpoints(settings).postgres_dsn,
        timeout_s=settings.store_timeout_s,
        limits=limits or PoolLimits(settings.postgres_pool_min, settings.postgres_pool_max),
        replica_dsn=settings.postgres_replica_dsn,
    )


def open_durable(settings: Settings) -> Redis:
    """The Redis of what must be kept: weights, dead letters, idempotency keys, rate limits."""
    return open_redis(endpoints(settings).redis_url, timeout_s=settings.store_timeout_s)


def open_volatile(settings: Settings) -> Redis:
    """The Redis of what may be evicted: features, signals, caches."""
    return open_redis(endpoints(settings).redis_cache_url, timeout_s=settings.store_timeout_s)


def open_online(settings: Settings, view: FeatureView) -> OnlineStore:
    """The online store of this market and view; connects at the first call."""
    return OnlineStore.open(
        endpoints(settings).redis_cache_url,
        settings.market_id,
        view.version,
        view.names,
        clock=settings.clock(),
        interval=settings.interval,
        fresh_bars=settings.fresh_bars,
        ttl_s=settings.feature_ttl_s,
        timeout_s=settings.store_timeout_s,
    )


def open_signal_stream(settings: Settings, view: FeatureView) -> SignalStream:
    """The signals of this market and view as they come; connects at the first call."""
    client = open_redis(endpoints(settings).redis_cache_url, timeout_s=settings.store_timeout_s)
    return SignalStream(client, settings.market_id, view.version)


def open_events(settings: Settings) -> EventStore:
    """The event store. In process: one owner for the whole cluster."""
    return EventStore.open(endpoints(settings).clickhouse, timeout_s=EVENTS_TIMEOUT_S)


def open_event_spool(settings: Settings) -> EventSpool:
    """Where events wait for ClickHouse. One owner, as the event store has."""
    return EventSpool.open(settings.home / "event-spool", settings.event_spool_mb * 1024 * 1024)


def open_registry(settings: Settings) -> Registry:
    """The model registry: a folder, the state folder's own where none is set, or an S3 bucket."""
    return _registry_at(settings.models_url or str(settings.home / "models"), settings)


def open_references(settings: Settings) -> Registry:
    """What was learned of each model's training, beside the models; its key is the model's version."""
    models = settings.models_url or str(settings.home / "models")
    return _registry_at(f"{models.rstrip('/')}/references", settings)


def open_ensembles(settings: Settings) -> Registry:
    """What each model's ensemble begins with, beside the models; its key is the model's version."""
    models = settings.models_url or str(settings.home / "models")
    return _registry_at(f"{models.rstrip('/')}/ensembles", settings)


def open_policies(settings: Settings) -> Registry:
    """Policies of reinforcement learning, beside the models: none of them can be the model that serves."""
    models = settings.models_url or str(settings.home / "models")
    return _registry_at(f"{models.rstrip('/')}/policies", settings)


def open_trial_journal(settings: Settings) -> TrialJournal:
    """The trials that this state folder knows of; no server is needed, and nothing is made yet."""
    return TrialJournal(settings.home / "trials.sqlite")


def _registry_at(place: str, settings: Settings) -> Registry:
    if place.startswith("s3://"):
        return Registry(ModelBucket.open(place, timeout_s=settings.store_timeout_s))
    return Registry(ModelFolder(Path(place)))
