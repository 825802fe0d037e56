"""What a reader of the online store gets: values, and how far each may be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from levibot.market.bars import FloatArray
from levibot.stores.packed import NO_OWN_TIMES, IntArray, Unpacked, UnpackedMany, from_microseconds


class Freshness(StrEnum):
    """How far a value may be trusted."""

    FRESH = "FRESH"
    STALE = "STALE"
    MISSING = "MISSING"


@dataclass(frozen=True, slots=True)
class ValueReading:
    """One value with its age. When MISSING, value and age are None."""

    value: float | None
    freshness: Freshness
    age_s: float | None


# What a fast replay counts in years would not fit a whole number.
MAX_AGE_US = 2.0**62
NO_OWN_VALUES: Mapping[str, ValueReading] = MappingProxyType({})
MISSING_VALUE = ValueReading(None, Freshness.MISSING, None)


class PresentValues(Mapping[str, float]):
    """The values of a vector that are there, by name. Nothing is copied until it is asked for."""

    __slots__ = ("_columns", "_vector")

    def __init__(self, columns: Mapping[str, int], vector: FloatArray) -> None:
        self._columns = columns
        self._vector = vector

    def __getitem__(self, name: str) -> float:
        value = float(self._vector[self._columns[name]])
        if math.isnan(value):
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in self._pairs() if not math.isnan(value))

    def __len__(self) -> int:
        return int(np.count_nonzero(~np.isnan(self._vector)))

    def __repr__(self) -> str:
        return repr(dict(self))

    def _pairs(self) -> Iterator[tuple[str, float]]:
        return zip(self._columns, self._vector.tolist(), strict=True)


class FeatureReading(NamedTuple):
    """The features of one symbol as they were at `event_time`.

    freshness: of the least fresh of its values. age_s: of the oldest, on the market's clock.
    rows: (R, F) read-only, oldest first, NaN = missing; one row, unless a window was asked for.
    columns: the place of each feature in a row. event_us: `event_time` in microseconds since 1970.
    of_bars: freshness and age of what is computed from bars. own: of the values that have a time of their
    own, present or not, by name.
    When MISSING, age, event time and rows are None and there are no values.
    """

    symbol: str
    freshness: Freshness
    age_s: float | None
    rows: FloatArray | None
    columns: Mapping[str, int]
    event_us: int | None
    of_bars: tuple[Freshness, float | None]
    own: Mapping[str, ValueReading]

    @classmethod
    def missing(cls, symbol: str) -> FeatureReading:
        """Nothing that may be used is stored for this symbol."""
        nothing = Freshness.MISSING, None
        return cls(symbol, *nothing, None, {}, None, nothing, NO_OWN_VALUES)

    @property
    def event_time(self) -> datetime | None:
        """The close of the newest bar that the features know."""
        return None if self.event_us is None else from_microseconds(self.event_us)

    @property
    def names(self) -> tuple[str, ...]:
        """(F,) of the columns."""
        return tuple(self.columns)

    @property
    def values(self) -> Mapping[str, float]:
        """The newest row's values that are present, by name."""
        return {} if self.rows is None else PresentValues(self.columns, self.rows[-1])

    def value(self, name: str) -> ValueReading:
        """One value, with the age that it has itself."""
        if name in self.own:
            return self.own[name]
        value = self.values.get(name)
        return MISSING_VALUE if value is None else ValueReading(value, *self.of_bars)


class Instant(NamedTuple):
    """When something is read: the market's clock and the server's, microseconds since 1970."""

    market_us: int
    server_us: int


@dataclass(frozen=True, slots=True)
class AgePolicy:
    """How old a value is, and what that makes of it.

    Two clocks tell an age: the reader's own, and the writer's at the write with what the server's clock has
    counted since, `rate` seconds of the market in one of the server. The older of the two counts, so that a
    clock that is behind makes nothing younger than it is.
    """

    interval_us: int
    fresh_us: int
    rate: float

    def age_us(self, source_us: int, stored: Unpacked, at: Instant) -> int | None:
        """Microseconds since `source_us`, None when it lies more than one bar ahead: it is of another run."""
        age = at.market_us - source_us
        if age < -self.interval_us:
            return None
        since_write = int(self.rate * (at.server_us - stored.stamp_us))
        return max(0, age, stored.written_us - source_us + since_write)

    def ages_us(self, stored: UnpackedMany, at: Instant) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """As `age_us`, of the bars of many vectors: (N,) ages, and whether each may be used at all."""
        age = at.market_us - stored.event_us
        on_server = at.server_us - stored.stamp_us
        usable = stored.is_known & (age >= -self.interval_us) & (on_server >= 0) & (on_server < stored.ttl_us)
        since_write = np.minimum(self.rate * on_server, MAX_AGE_US).astype(np.int64)
        writers = stored.written_us - stored.event_us + since_write
        return np.maximum(np.maximum(age, writers), 0), usable

    def freshness(self, age_us: int, every_us: int = 0) -> Freshness:
        """What an age makes of a value that is had anew every so often, beside the bars."""
        return Freshness.FRESH if age_us <= self.fresh_us + every_us else Freshness.STALE

    def reading(
        self, symbol: str, stored: Unpacked, at: Instant, columns: Mapping[str, int]
    ) -> FeatureReading:
        """What a packed vector or window says at that instant. columns: the place of each feature."""
        on_server_us = at.server_us - stored.stamp_us
        age_us = self.age_us(stored.event_us, stored, at)
        # A stamp ahead of the server's own clock: that was set back, and nobody can say how old this is.
        if age_us is None or not 0 <= on_server_us < stored.ttl_us:
            return FeatureReading.missing(symbol)
        of_bars = self.freshness(age_us), age_us / 1e6
        event_us = stored.event_us
        if stored.own is NO_OWN_TIMES:
            return FeatureReading(symbol, *of_bars, stored.rows, columns, event_us, of_bars, NO_OWN_VALUES)
        rows, own = self._own_values(stored, at, tuple(columns))
        present = [
            (of_bars[0], age_us / 1e6),
            *((v.freshness, v.age_s) for v in own.values() if v.age_s is not None),
        ]
        is_stale = any(freshness is Freshness.STALE for freshness, _ in present)
        whole = Freshness.STALE if is_stale else Freshness.FRESH, max(age_s for _, age_s in present)
        return FeatureReading(symbol, *whole, rows, columns, event_us, of_bars, own)

    def _own_values(
        self, stored: Unpacked, at: Instant, names: tuple[str, ...]
    ) -> tuple[FloatArray, dict[str, ValueReading]]:
        """The rows without what is over its life, and the values with a time of their own."""
        rows = stored.rows.copy()
        own: dict[str, ValueReading] = {}
        for column, source_us, life_us, every_us in stored.own.tolist():
            value = float(rows[-1, column])
            age_us = self.age_us(source_us, stored, at)
            is_over = age_us is None or 0 <= life_us <= age_us
            if age_us is None or is_over or math.isnan(value):
                rows[-1, column] = np.nan
                own[names[column]] = MISSING_VALUE
                continue
            own[names[column]] = ValueReading(value, self.freshness(age_us, every_us), age_us / 1e6)
        rows.flags.writeable = False
        return rows, own


class CrossSection(Mapping[str, FeatureReading]):
    """The newest features of many symbols, read in one piece. A reading is made when it is asked for.

    ages_s: (S,) NaN where missing. vectors: (S, F) read-only, NaN = missing.
    """

    def __init__(
        self,
        symbols: tuple[str, ...],
        ages_s: FloatArray,
        vectors: FloatArray,
        make: Callable[[int], FeatureReading],
    ) -> None:
        self.symbols = symbols
        self.ages_s = ages_s
        self.vectors = vectors
        self._make = make

    @classmethod
    def of(cls, readings: Sequence[FeatureReading], n_features: int) -> CrossSection:
        """From readings that were made one by one."""
        nothing = np.full(n_features, np.nan)
        ages_s = np.array([math.nan if r.age_s is None else r.age_s for r in readings])
        vectors = np.array([nothing if r.rows is None else r.rows[-1] for r in readings])
        vectors.flags.writeable = False
        return cls(tuple(r.symbol for r in readings), ages_s, vectors, lambda row: readings[row])

    def __getitem__(self, symbol: str) -> FeatureReading:
        try:
            row = self.symbols.index(symbol)
        except ValueError:
            raise KeyError(symbol) from None
        return self._make(row)

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols)

    def __len__(self) -> int:
        return len(self.symbols)
