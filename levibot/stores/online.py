"""Features and signals that the serving path reads, in Redis. Every reading says how old it is.

Keys, all with a time to live:

    SYMBOL:features          hash for people and other programs: one field a feature (full precision),
                             `_event_time`, `_market`, `_view`, `_written_at` (the market's time), and
                             `_expires_at` (the server's clock, seconds since 1970), for a value that ends
                             earlier `_expires_at:NAME`. A missing value is no field.
    SYMBOL:features:vector   the newest row of them, packed (levibot/stores/packed.py)
    SYMBOL:features:window   that row and those before it, packed likewise
    SYMBOL:signal            the newest signal, JSON
    SYMBOL:signal:canary     that of the canary, which those in its arm are answered with
    signals:canary           which version that is, and its share of the callers, JSON
    signals                  those of all symbols as they came, a stream (levibot/stores/signal_stream.py)

The three of features are written together, for all symbols of a cross-section, and none is read as fresh
beyond its life, whatever the server itself does about it. An older event never replaces a newer one of the
same market and view: scripts inside Redis compare before they write, so this holds for any number of writers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from redis.asyncio import Redis

from levibot.clock import Clock
from levibot.errors import DataError, StoreError
from levibot.stores.capabilities import ServerCapabilities
from levibot.stores.feature_hash import hash_of
from levibot.stores.online_signals import OnlineSignals
from levibot.stores.packed import (
    FeatureWindow,
    Identity,
    Unpacked,
    ValueTime,
    check_window,
    microseconds,
    pack,
    unpack,
    unpack_many,
)
from levibot.stores.reading import (
    AgePolicy,
    CrossSection,
    FeatureReading,
    Freshness,
    Instant,
    ValueReading,
)
from levibot.stores.redis import ask, open_redis
from levibot.stores.scripts import WRITE_FEATURES
from levibot.stores.server_time import ServerTime
from levibot.stores.signals import Signal

__all__ = [
    "CrossSection",
    "FeatureReading",
    "FeatureWindow",
    "Freshness",
    "OnlineStore",
    "Signal",
    "ValueReading",
    "ValueTime",
]


class OnlineStore(OnlineSignals):
    """The online features and signals of one market and one view, for one event loop.

    names: (F,) of the view's features, in its order.
    """

    def __init__(
        self,
        client: Redis,
        market_id: str,
        view_version: str,
        names: Sequence[str],
        *,
        clock: Clock,
        interval: timedelta,
        fresh_bars: float,
        ttl_s: float,
    ) -> None:
        super().__init__(client, market_id, view_version, clock=clock, interval=interval)
        self.names = tuple(names)
        self._ttl_us = max(1, round(ttl_s * 1e6))
        self._identity = Identity.of(market_id, view_version, self.names)
        self._columns = {name: column for column, name in enumerate(self.names)}
        fresh_s = fresh_bars * interval.total_seconds()
        self._ages = AgePolicy(round(interval.total_seconds() * 1e6), round(fresh_s * 1e6), clock.rate)
        self._server_time = ServerTime(client)
        self._server = ServerCapabilities(client)
        self._write_features = client.register_script(WRITE_FEATURES)

    @classmethod
    def open(
        cls,
        url: str,
        market_id: str,
        view_version: str,
        names: Sequence[str],
        *,
        clock: Clock,
        interval: timedelta,
        fresh_bars: float,
        ttl_s: float,
        timeout_s: float,
    ) -> Self:
        """A store on the server at `url` (redis:// or unix://). Connects at the first call, not here."""
        client = open_redis(url, timeout_s=timeout_s)
        return cls(
            client,
            market_id,
            view_version,
            names,
            clock=clock,
            interval=interval,
            fresh_bars=fresh_bars,
            ttl_s=ttl_s,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ping(self) -> float:
        """Seconds of one round trip."""
        start = time.perf_counter()
        await ask("ping", self._client.ping())
        return time.perf_counter() - start

    async def write_features(self, windows: Sequence[FeatureWindow]) -> tuple[str, ...]:
        """Write a cross-section, all of it or nothing, in one round trip; returns the symbols written.

        A symbol is left out when the store already holds a newer event of this market and view.
        Raises DataError when a window breaks its schema or has other names; nothing is written then.
        """
        if not windows:
            return ()
        has_field_ttl = (await self._server.get()).has_field_ttl
        # In this order: a stamp may be too early, and never too late.
        sent_us, now = await self._server_time.earliest_us(), self._clock.now()
        keys: list[str] = []
        arguments: list[str | bytes | int] = [
            # A life that is no whole number of milliseconds ends by its timestamp, just before the key does.
            -(-self._ttl_us // 1000),
            self._ttl_us,
            microseconds(now + self._interval),
            self._identity.prefix,
            int(has_field_ttl),
            sent_us,
        ]
        for window in windows:
            check_window(window)
            if window.names != self.names:
                raise DataError(
                    f"The window of {window.symbol} has other features than view {self.view_version}."
                )
            public = hash_of(
                window, self._identity, written_at=now, ttl_us=self._ttl_us, rate=self._clock.rate
            )
            keys += (_features_key(window.symbol), _vector_key(window.symbol), _window_key(window.symbol))
            arguments += [
                microseconds(window.event_time),
                pack(window, self._identity, rows=1, written_at=now, ttl_us=self._ttl_us),
                pack(window, self._identity, rows=len(window.rows), written_at=now, ttl_us=self._ttl_us),
                len(public.fields),
                *public.fields,
                len(public.early) // 2,
                *public.early,
            ]
        *written, server_us = await ask("write features", self._write_features(keys, arguments))
        self._server_time.check(sent_us, server_us)
        return tuple(w.symbol for w, done in zip(windows, written, strict=True) if done)

    async def get(self, symbol: str) -> FeatureReading:
        """The newest features of one symbol, in one round trip. Raises as `get_many` does."""
        key = _vector_key(symbol)
        data: Any = await ask("read features", self._client.get(key))
        found = None if data is None else self._unpack(key, data)
        if found is None:
            return FeatureReading.missing(symbol)
        at = self._instant(found.stamp_us) or await self._instant_anew()
        return self._ages.reading(symbol, found, at, self._columns)

    async def get_many(self, symbols: Sequence[str]) -> CrossSection:
        """The newest features of each symbol, all of one instant, in one round trip.

        Raises StoreError naming the key when what is stored is not a whole, unchanged vector.
        """
        if not symbols:
            return CrossSection.of([], len(self.names))
        keys = [_vector_key(symbol) for symbol in symbols]
        stored: list[Any] = await ask("read features", self._client.mget(keys))
        known = unpack_many(stored, self._identity)
        if known is not None:
            at = self._instant(int(known.stamp_us.max())) or await self._instant_anew()
            ages_us, usable = self._ages.ages_us(known, at)
            if usable.all():

                def make(row: int) -> FeatureReading:
                    return self._ages.reading(symbols[row], known.at(row), at, self._columns)

                return CrossSection(tuple(symbols), ages_us / 1e6, known.values, make)
        return CrossSection.of(await self._readings(symbols, keys, stored), len(self.names))

    async def get_windows(self, symbols: Sequence[str]) -> dict[str, FeatureReading]:
        """The newest features of each symbol and the rows before them, in one round trip.

        Raises StoreError naming the key when what is stored is not a whole, unchanged window.
        """
        if not symbols:
            return {}
        keys = [_window_key(symbol) for symbol in symbols]
        stored: list[Any] = await ask("read windows", self._client.mget(keys))
        return dict(zip(symbols, await self._readings(symbols, keys, stored), strict=True))

    async def _readings(
        self, symbols: Sequence[str], keys: Sequence[str], stored: Sequence[bytes | None]
    ) -> list[FeatureReading]:
        unpacked = [None if d is None else self._unpack(k, d) for k, d in zip(keys, stored, strict=True)]
        newest_stamp_us = max((u.stamp_us for u in unpacked if u is not None), default=0)
        at = self._instant(newest_stamp_us) or await self._instant_anew()
        return [
            FeatureReading.missing(symbol)
            if found is None
            else self._ages.reading(symbol, found, at, self._columns)
            for symbol, found in zip(symbols, unpacked, strict=True)
        ]

    def _unpack(self, key: str, data: bytes) -> Unpacked | None:
        try:
            return unpack(data, self._identity)
        except ValueError as exc:
            raise StoreError(f"{key} does not hold a feature vector: {exc}.", hint="Delete the key.") from exc

    def _instant(self, newest_stamp_us: int) -> Instant | None:
        """Now, on both clocks; None where the server's must be read first.

        Taken after the read: what was read is older than this.
        """
        server_us = self._server_time.latest_us()
        if server_us is None or newest_stamp_us > server_us:
            # Long ago, or the server's clock was set, or another server answers now.
            return None
        # Exact to the microsecond in these centuries, and half as long as whole numbers take.
        return Instant(round(self._clock.now().timestamp() * 1e6), server_us)

    async def _instant_anew(self) -> Instant:
        server_us = await self._server_time.sync()
        return Instant(microseconds(self._clock.now()), server_us)


def _features_key(symbol: str) -> str:
    return f"{symbol}:features"


def _vector_key(symbol: str) -> str:
    return f"{symbol}:features:vector"


def _window_key(symbol: str) -> str:
    return f"{symbol}:features:window"
