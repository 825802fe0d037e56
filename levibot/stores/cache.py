"""A cache of three tiers: this process, Redis, and the loader that makes a value. Every answer has its age.

Keys in Redis: `cache:{name}:{key}`, bytes: when the value was loaded, how long it is fresh, whether there is
a value at all, then the value as its codec writes it. They belong on the server that may evict.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import structlog
from redis.asyncio import Redis

from levibot.clock import Clock, SystemClock
from levibot.errors import LeviBotError, StoreError, StoreUnavailable, UsageError
from levibot.resilience.fallback import is_wrong_question
from levibot.resilience.guard import Guard
from levibot.stores.redis import ask
from levibot.telemetry.metrics import DEFAULT, Metrics

P = ParamSpec("P")
T = TypeVar("T")

L1_ENTRIES = 100
L1_TTL_S = 5.0
L2_TTL_S = 60.0
NEGATIVE_TTL_S = 5.0
GRACE_S = 300.0
JITTER = 0.1
# A cache that is slower than this is no help.
REDIS_TIMEOUT_S = 0.25
_HEADER = struct.Struct("<qq?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Codec(Generic[T]):
    """How a value becomes bytes and comes back. decode raises ValueError, TypeError or KeyError on others."""

    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


JSON: Codec[Any] = Codec(lambda value: json.dumps(value, allow_nan=False).encode(), json.loads)
BYTES: Codec[bytes] = Codec(bytes, bytes)


class Cached(NamedTuple, Generic[T]):
    """An answer. A tuple, for it is made at each hit, and a frozen dataclass takes three times as long.

    value: None where the loader knows of none. tier: `l1`, `l2` or `loader`. age_s: since the loader gave it.
    is_stale: it is past its time, and served because the loader failed, as `problem` says; never otherwise.
    """

    value: T | None
    tier: str
    age_s: float
    is_stale: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    """A value as it is kept. looked_up_until: after that, this process looks at Redis again."""

    value: T | None
    loaded_at: datetime
    fresh_until: datetime
    looked_up_until: datetime


class Cache(Generic[T]):
    """The cache of one kind of value, for one event loop. State: the values this process has at hand.

    A value is fresh for `l2_ttl_s` (where there is none: `negative_ttl_s`), shortened by up to `jitter` of it
    so that values loaded together do not end together. Within that time this process answers by itself for
    `l1_ttl_s`, so an `invalidate` elsewhere is seen here that much later. Past it the loader is asked again;
    if it fails, the old value is served for `grace_s` more, marked as stale. Concurrent misses of a key in
    this process are one call of the loader; each process loads for itself. Values are shared: treat them as
    read-only. client: None leaves Redis out. clock: of the machine; rng: draws the jitter.
    """

    def __init__(
        self,
        name: str,
        client: Redis | None,
        *,
        codec: Codec[T] = JSON,
        l1_entries: int = L1_ENTRIES,
        l1_ttl_s: float = L1_TTL_S,
        l2_ttl_s: float = L2_TTL_S,
        negative_ttl_s: float = NEGATIVE_TTL_S,
        grace_s: float = GRACE_S,
        jitter: float = JITTER,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        redis_timeout_s: float = REDIS_TIMEOUT_S,
        metrics: Metrics = DEFAULT,
    ) -> None:
        if not (l1_entries >= 1 and 0.0 <= jitter < 1.0 and min(l1_ttl_s, l2_ttl_s, negative_ttl_s) > 0.0):
            raise UsageError(
                f"The cache {name} has {l1_entries} entries, times of {l1_ttl_s:g}, {l2_ttl_s:g} and "
                f"{negative_ttl_s:g} s and a jitter of {jitter:g}.",
                hint="At least one entry, times above zero, a jitter in [0, 1).",
            )
        self.name = name
        self._client = client
        self._codec = codec
        self._l1_entries = l1_entries
        self._l1_ttl = timedelta(seconds=l1_ttl_s)
        self._l2_ttl_s = l2_ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._grace = timedelta(seconds=grace_s)
        self._jitter = jitter
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        # The oldest use first.
        self._l1: dict[str, _Entry[T]] = {}
        self._loading: dict[str, asyncio.Task[Cached[T]]] = {}
        # Its fallback is the loader. Open, a Redis that is away costs no time.
        self._redis = Guard(
            f"cache:{name}",
            timeout_s=redis_timeout_s,
            attempts=1,
            failure_threshold=3,
            reset_s=2.0,
            transient=(StoreUnavailable,),
            metrics=metrics,
        )
        self._hit_l1, self._hit_l2 = (metrics.cache_hits.labels(name, tier) for tier in ("l1", "l2"))
        self._miss_l1, self._miss_l2 = (metrics.cache_misses.labels(name, tier) for tier in ("l1", "l2"))

    async def get_or_load(self, key: str, load: Callable[[], Awaitable[T | None]]) -> Cached[T]:
        """The value of a key: from this process, from Redis, or what `await load()` returns.

        load: bounds its own time, and raises LeviBotError where it fails; None where there is no value.
        Raises what it raised when there is no older value within the grace, and always when it says that the
        question is wrong (UsageError, but not DataError).
        """
        now = self._clock.now()
        entry = self._l1.get(key)
        if entry is not None and entry.loaded_at <= now < entry.looked_up_until:
            # To the end: the newest use.
            del self._l1[key]
            self._l1[key] = entry
            self._hit_l1.inc()
            return Cached(entry.value, "l1", (now - entry.loaded_at).total_seconds())
        self._miss_l1.inc()
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = asyncio.create_task(self._look_further(key, load))
            loading.add_done_callback(functools.partial(self._forget_loading, key))
        # Shielded: a caller that goes away takes nothing from the others.
        return await asyncio.shield(loading)

    async def invalidate(self, key: str) -> None:
        """Forget a value. A load under way is not kept; other processes serve theirs up to `l1_ttl_s` longer.

        Raises StoreUnavailable when Redis could not forget it: there it lives on until its time is over.
        """
        self._l1.pop(key, None)
        self._loading.pop(key, None)
        if self._client is not None:
            await self._redis.call(self._forget_in_redis, self._client, key)

    async def _look_further(self, key: str, load: Callable[[], Awaitable[T | None]]) -> Cached[T]:
        me = asyncio.current_task()
        stored = await self._read_redis(key)
        now = self._clock.now()
        if stored is not None and stored.loaded_at <= now < stored.fresh_until:
            self._hit_l2.inc()
            if self._loading.get(key) is me:
                self._keep(key, stored)
            return Cached(stored.value, "l2", (now - stored.loaded_at).total_seconds())
        if self._client is not None:
            self._miss_l2.inc()
        try:
            value = await load()
        except LeviBotError as exc:
            if is_wrong_question(exc):
                raise
            return self._stale(key, stored, exc)
        entry, text = self._entry(value)
        # Not when it was invalidated meanwhile.
        if self._loading.get(key) is me:
            self._keep(key, entry)
            await self._write_redis(key, entry, text)
        return Cached(entry.value, "loader", 0.0)

    def _stale(self, key: str, stored: _Entry[T] | None, exc: LeviBotError) -> Cached[T]:
        """The newest value there was, within its grace; otherwise raises `exc`."""
        now = self._clock.now()
        known = [
            entry for entry in (stored, self._l1.get(key)) if entry is not None and entry.loaded_at <= now
        ]
        newest = max(known, key=lambda entry: entry.loaded_at, default=None)
        if newest is None or now >= newest.fresh_until + self._grace:
            raise exc
        age_s = (now - newest.loaded_at).total_seconds()
        log.warning("a stale value is served", cache=self.name, key=key, age_s=age_s, reason=str(exc))
        tier = "l2" if newest is stored else "l1"
        return Cached(newest.value, tier, age_s, is_stale=True, problem=str(exc))

    def _entry(self, value: T | None) -> tuple[_Entry[T], bytes]:
        """What is kept of a loaded value, and its bytes."""
        now = self._clock.now()
        text = b"" if value is None else self._codec.encode(value)
        longest_s = self._negative_ttl_s if value is None else self._l2_ttl_s
        fresh = timedelta(seconds=longest_s * (1.0 - self._jitter * self._rng.random()))
        # Through the codec here too: a caller must not see which tier a value comes from.
        kept = None if value is None else self._codec.decode(text)
        return self._timed(kept, now, now + fresh), text

    def _timed(self, value: T | None, loaded_at: datetime, fresh_until: datetime) -> _Entry[T]:
        return _Entry(value, loaded_at, fresh_until, min(fresh_until, self._clock.now() + self._l1_ttl))

    def _keep(self, key: str, entry: _Entry[T]) -> None:
        self._l1.pop(key, None)
        while len(self._l1) >= self._l1_entries:
            del self._l1[next(iter(self._l1))]
        self._l1[key] = entry

    def _forget_loading(self, key: str, task: asyncio.Task[Cached[T]]) -> None:
        if self._loading.get(key) is task:
            del self._loading[key]
        if not task.cancelled():
            # Whoever waited has been told; when nobody does any more, nobody needs to be.
            task.exception()

    async def _read_redis(self, key: str) -> _Entry[T] | None:
        if self._client is None:
            return None
        try:
            stored = await self._redis.call(self._get, self._client, key)
        except StoreError:
            # The guard's metrics tell; the loader goes on.
            return None
        if stored is None:
            return None
        try:
            loaded_us, fresh_us, has_value = _HEADER.unpack_from(stored)
            value = self._codec.decode(stored[_HEADER.size :]) if has_value else None
            loaded_at = _EPOCH + loaded_us * _MICROSECOND
            return self._timed(value, loaded_at, loaded_at + fresh_us * _MICROSECOND)
        except (struct.error, ValueError, TypeError, KeyError, OverflowError) as exc:
            log.error("a cached value cannot be read", cache=self.name, key=key, reason=str(exc))
            return None

    async def _write_redis(self, key: str, entry: _Entry[T], text: bytes) -> None:
        if self._client is None:
            return
        fresh = entry.fresh_until - entry.loaded_at
        loaded_us = (entry.loaded_at - _EPOCH) // _MICROSECOND
        packed = _HEADER.pack(loaded_us, fresh // _MICROSECOND, entry.value is not None) + text
        # Kept through its grace, for the processes that have none at hand when the loader fails.
        life_ms = round((fresh + self._grace).total_seconds() * 1000)
        try:
            await self._redis.call(self._set, self._client, key, packed, life_ms)
        except StoreError:
            # As above: this process has it.
            return

    async def _get(self, client: Redis, key: str) -> bytes | None:
        stored = await ask("read a cached value", client.get(self._key(key)))
        return stored.encode() if isinstance(stored, str) else stored

    async def _set(self, client: Redis, key: str, packed: bytes, life_ms: int) -> None:
        await ask("write a cached value", client.set(self._key(key), packed, px=max(1, life_ms)))

    async def _forget_in_redis(self, client: Redis, key: str) -> None:
        await ask("forget a cached value", client.delete(self._key(key)))

    def _key(self, key: str) -> str:
        return f"cache:{self.name}:{key}"


def cached(
    cache: Cache[T], *, key: Callable[P, str]
) -> Callable[[Callable[P, Awaitable[T | None]]], Callable[P, Awaitable[Cached[T]]]]:
    """Decorate a coroutine function: its values go through the cache, under the key of its arguments.

    What is decorated returns `Cached`: whoever uses a value must be able to see that it is stale.
    """

    def decorate(fn: Callable[P, Awaitable[T | None]]) -> Callable[P, Awaitable[Cached[T]]]:
        @functools.wraps(fn)
        async def through_cache(*args: P.args, **kwargs: P.kwargs) -> Cached[T]:
            return await cache.get_or_load(key(*args, **kwargs), lambda: fn(*args, **kwargs))

        return through_cache

    return decorate
