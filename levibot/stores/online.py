"""Features and signals that the serving path reads, in Redis. Every reading says how old it is.

Keys, all with a time to live:

    SYMBOL:features          hash for people and other programs: one field a feature (full precision),
                             `_event_time`, `_market`, `_view`, `_written_at` (the market's time).
                             A missing value is no field.
    SYMBOL:features:window   the same features and the rows before them, packed (levibot/stores/packed.py)
    SYMBOL:signal            the newest signal, JSON

An older event never replaces a newer one of the same market and view: scripts inside Redis compare before
they write, so this holds for any number of writers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from redis.asyncio import Redis

from levibot.clock import Clock
from levibot.errors import DataError, StoreError
from levibot.market.bars import FloatArray
from levibot.stores.packed import FeatureWindow, check_window, microseconds, pack, prefix, unpack
from levibot.stores.redis import ask, open_redis
from levibot.stores.scripts import WRITE_FEATURES, WRITE_SIGNALS

__all__ = ["FeatureReading", "FeatureWindow", "Freshness", "OnlineStore", "Signal"]


class Freshness(StrEnum):
    """How far a value may be trusted."""

    FRESH = "FRESH"
    STALE = "STALE"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureReading:
    """The features of one symbol as they were at `event_time`, `age_s` ago on the market's clock.

    values: only those present in the newest row. window: (R, F), oldest first, NaN = missing; names: (F,).
    When MISSING, age, event time and window are None and there are no values.
    """

    symbol: str
    freshness: Freshness
    age_s: float | None
    event_time: datetime | None
    values: Mapping[str, float]
    window: FloatArray | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Signal:
    """What the ensemble says about one symbol at `as_of`, the close of the newest bar it has seen.

    probability_up: in [0, 1]. target_position: in units of capital, negative = short.
    source: what produced it. expected_return: over the model's horizon, None where the model gives none.
    """

    symbol: str
    as_of: datetime
    probability_up: float
    target_position: float
    model_version: str
    view_version: str
    market_id: str
    source: str
    expected_return: float | None = None

    def age_s(self, now: datetime) -> float:
        """Seconds of market time since `as_of`, never negative."""
        return max(0.0, (now - self.as_of).total_seconds())


class OnlineStore:
    """The online features and signals of one market and one view, for one event loop."""

    def __init__(
        self,
        client: Redis,
        market_id: str,
        view_version: str,
        *,
        clock: Clock,
        interval: timedelta,
        fresh_bars: float,
        ttl_s: float,
    ) -> None:
        self.market_id = market_id
        self.view_version = view_version
        self._client = client
        self._clock = clock
        self._interval = interval
        self._fresh_s = fresh_bars * interval.total_seconds()
        self._ttl_ms = round(ttl_s * 1000)
        self._prefix = prefix(market_id, view_version)
        self._write_features = client.register_script(WRITE_FEATURES)
        self._write_signals = client.register_script(WRITE_SIGNALS)

    @classmethod
    def open(
        cls,
        url: str,
        market_id: str,
        view_version: str,
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

    def freshness(self, event_time: datetime) -> tuple[Freshness, float | None]:
        """How fresh a value known at `event_time` is now, and its age in seconds of market time.

        MISSING, without an age, when it lies more than one bar in the future: it belongs to another run.
        """
        age_s = (self._clock.now() - event_time).total_seconds()
        if age_s < -self._interval.total_seconds():
            return Freshness.MISSING, None
        age_s = max(0.0, age_s)
        return (Freshness.FRESH if age_s <= self._fresh_s else Freshness.STALE), age_s

    async def write_features(self, windows: Sequence[FeatureWindow]) -> tuple[str, ...]:
        """Write a cross-section, all of it or nothing, in one round trip; returns the symbols written.

        A symbol is left out when the store already holds a newer event of this market and view.
        Raises DataError when a window breaks its schema; nothing is written then.
        """
        if not windows:
            return ()
        now = self._clock.now()
        keys: list[str] = []
        arguments: list[str | bytes | int] = [self._ttl_ms, microseconds(now + self._interval), self._prefix]
        for window in windows:
            check_window(window)
            fields = self._hash_fields(window, written_at=now)
            keys += (_features_key(window.symbol), _window_key(window.symbol))
            arguments += (microseconds(window.event_time), pack(window, self._prefix), len(fields), *fields)
        written = await ask("write features", self._write_features(keys, arguments))
        return tuple(w.symbol for w, done in zip(windows, written, strict=True) if done)

    async def read(self, symbols: Sequence[str]) -> dict[str, FeatureReading]:
        """The newest features of each symbol, in one round trip.

        Raises StoreError naming the key when what is stored is not a whole, unchanged window.
        """
        if not symbols:
            return {}
        keys = [_window_key(symbol) for symbol in symbols]
        stored: list[Any] = await ask("read features", self._client.mget(keys))
        return {s: self._reading(s, k, data) for s, k, data in zip(symbols, keys, stored, strict=True)}

    async def write_signals(self, signals: Sequence[Signal], ttl_s: float) -> tuple[str, ...]:
        """Write signals, all or nothing, in one round trip; returns the symbols written.

        A symbol is left out when the store already holds a newer signal of this market and view.
        Raises DataError on a signal of another market or view, or with a number out of its limits.
        """
        if not signals:
            return ()
        newest = _instant(self._clock.now() + self._interval)
        arguments: list[str | int] = [round(ttl_s * 1000), newest]
        for signal in signals:
            self._check_signal(signal)
            fields = asdict(signal) | {"as_of": _instant(signal.as_of)}
            arguments.append(json.dumps(fields, allow_nan=False))
        keys = [_signal_key(s.symbol) for s in signals]
        written = await ask("write signals", self._write_signals(keys, arguments))
        return tuple(s.symbol for s, done in zip(signals, written, strict=True) if done)

    async def read_signal(self, symbol: str) -> Signal | None:
        """The newest signal of this market and view, None when there is none.

        Its age is `signal.age_s(clock.now())`. Raises StoreError naming the key when it holds no signal.
        """
        key = _signal_key(symbol)
        text = await ask("read signal", self._client.get(key))
        if text is None:
            return None
        try:
            fields = json.loads(text)
            signal = Signal(**fields | {"as_of": datetime.fromisoformat(fields["as_of"])})
            freshness, _ = self.freshness(signal.as_of)
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreError(f"{key} does not hold a signal: {exc}.", hint="Delete the key.") from exc
        if (signal.market_id, signal.view_version) != (self.market_id, self.view_version):
            return None
        return None if freshness is Freshness.MISSING else signal

    def _reading(self, symbol: str, key: str, data: bytes | None) -> FeatureReading:
        missing = FeatureReading(symbol, Freshness.MISSING, None, None, {}, None)
        if data is None:
            return missing
        try:
            found = unpack(data)
        except ValueError as exc:
            raise StoreError(f"{key} does not hold a feature window: {exc}.", hint="Delete the key.") from exc
        if (found.market_id, found.view_version) != (self.market_id, self.view_version):
            return missing
        freshness, age_s = self.freshness(found.event_time)
        if freshness is Freshness.MISSING:
            return missing
        newest = zip(found.names, found.rows[-1].tolist(), strict=True)
        values = {name: value for name, value in newest if not math.isnan(value)}
        return FeatureReading(symbol, freshness, age_s, found.event_time, values, found.rows, found.names)

    def _hash_fields(self, window: FeatureWindow, *, written_at: datetime) -> list[str]:
        fields = [
            *("_event_time", _instant(window.event_time)),
            *("_market", self.market_id),
            *("_view", self.view_version),
            *("_written_at", _instant(written_at)),
        ]
        for name, value in zip(window.names, window.rows[-1].tolist(), strict=True):
            if not math.isnan(value):
                fields += (name, repr(value))
        return fields

    def _check_signal(self, signal: Signal) -> None:
        if (signal.market_id, signal.view_version) != (self.market_id, self.view_version):
            raise DataError(
                f"The signal of {signal.symbol} is of market {signal.market_id}, view {signal.view_version}; "
                f"this store holds {self.market_id}, {self.view_version}."
            )
        if signal.as_of.tzinfo is None:
            raise DataError(f"The signal of {signal.symbol} is as of {signal.as_of}, without a time zone.")
        if not 0.0 <= signal.probability_up <= 1.0:
            raise DataError(f"probability_up of {signal.symbol} is {signal.probability_up}, not in [0, 1].")
        for name in ("target_position", "expected_return"):
            value = getattr(signal, name)
            if value is not None and not math.isfinite(value):
                raise DataError(f"{name} of {signal.symbol} is {value}, not a finite number.")


def _features_key(symbol: str) -> str:
    return f"{symbol}:features"


def _window_key(symbol: str) -> str:
    return f"{symbol}:features:window"


def _signal_key(symbol: str) -> str:
    return f"{symbol}:signal"


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="microseconds")
