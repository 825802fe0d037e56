"""What the tests of the cache share: a loader that does as it is told, and a cache that does not draw."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from levibot.clock import ManualClock
from levibot.stores.cache import Cache
from levibot.telemetry.metrics import Metrics

Build = Callable[..., Cache[Any]]


class Source:
    """A loader: counts its calls, and answers what it is told to."""

    def __init__(self, value: object = None) -> None:
        self.value = value
        self.n_calls = 0
        self.is_asked = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def load(self) -> Any:
        self.n_calls += 1
        self.is_asked.set()
        await self.takes.wait()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def builder(clock: ManualClock, metrics: Metrics) -> Build:
    """Builds caches without jitter under one new name: two of them are like two processes."""
    name = f"test-{secrets.token_hex(6)}"

    def build(client: Redis | None = None, **options: Any) -> Cache[Any]:
        given = {"clock": clock, "jitter": 0.0, "metrics": metrics, "redis_timeout_s": 5.0}
        return Cache(name, client, **given | options)

    return build


def counted(metrics: Metrics, what: str, cache: Cache[Any], tier: str) -> float:
    """Hits or misses of a tier."""
    labels = {"cache": cache.name, "tier": tier}
    return metrics.registry.get_sample_value(f"levibot_cache_{what}_total", labels) or 0.0
