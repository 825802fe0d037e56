"""Finished bars of one or many symbols, as arrays.

A bar's `ts` is its opening instant. What it holds is known at `ts + interval`, its close, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
TimeArray = npt.NDArray[np.datetime64]  # datetime64[us], UTC

FIELDS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Bar:
    """One finished bar of one symbol. ts: its opening instant, aware UTC. Units as in `Bars`."""

    symbol: str
    interval: timedelta
    ts: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float

    @property
    def closes_at(self) -> datetime:
        """When the bar is known."""
        return self.ts + self.interval


@dataclass(frozen=True, slots=True)
class Bars:
    """Finished bars of one symbol, oldest first.

    ts: (T,) datetime64[us] UTC, opening instants, strictly increasing; outages are missing rows.
    open, high, low, close: (T,) > 0 in quote currency. volume: (T,) >= 0 in base currency. No NaN.
    """

    symbol: str
    interval: timedelta
    ts: TimeArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def __len__(self) -> int:
        return len(self.ts)

    def __iter__(self) -> Iterator[Bar]:
        """Bar by bar, oldest first; for people and tests, the arrays are for work."""
        for row in range(len(self)):
            values = (float(getattr(self, f)[row]) for f in FIELDS)
            yield Bar(self.symbol, self.interval, to_datetime(self.ts[row]), *values)

    def between(self, start: datetime | None = None, end: datetime | None = None) -> Bars:
        """The bars that open in [start, end)."""
        first = 0 if start is None else int(np.searchsorted(self.ts, to_datetime64(start)))
        last = len(self) if end is None else int(np.searchsorted(self.ts, to_datetime64(end)))
        return self._rows(slice(first, max(first, last)))

    def closed_by(self, as_of: datetime) -> Bars:
        """The bars whose close is known at `as_of`."""
        return self.between(end=as_of - self.interval + timedelta(microseconds=1))

    def tail(self, n: int) -> Bars:
        """The newest `n` bars."""
        return self._rows(slice(max(0, len(self) - n), len(self)))

    def then(self, later: Bars) -> Bars:
        """These bars followed by `later` ones of the same symbol."""
        joined = (np.concatenate([getattr(self, f), getattr(later, f)]) for f in ("ts", *FIELDS))
        return Bars(self.symbol, self.interval, *joined)

    def _rows(self, rows: slice) -> Bars:
        return Bars(self.symbol, self.interval, self.ts[rows], *(getattr(self, f)[rows] for f in FIELDS))


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of several symbols on one time axis.

    ts: (T,) the union of the symbols' opening instants, strictly increasing. An outage of the whole market is
    no row at all. Each field: (T, S), NaN in a row where that symbol has no bar.
    extra: side series by name, like funding rates, each (T, S): what was known at the row's close, NaN where
    nothing was. Empty where no such source is on.
    """

    symbols: tuple[str, ...]
    interval: timedelta
    ts: TimeArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    extra: Mapping[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ts)

    @classmethod
    def align(cls, bars: Mapping[str, Bars]) -> Panel:
        """Put each symbol's bars on the union of their instants. All must share one interval."""
        symbols = tuple(bars)
        ts = np.unique(np.concatenate([b.ts for b in bars.values()]))
        fields = {f: np.full((len(ts), len(symbols)), np.nan) for f in FIELDS}
        for column, b in enumerate(bars.values()):
            rows = np.searchsorted(ts, b.ts)
            for f in FIELDS:
                fields[f][rows, column] = getattr(b, f)
        return cls(
            symbols=symbols,
            interval=next(iter(bars.values())).interval,
            ts=ts,
            open=fields["open"],
            high=fields["high"],
            low=fields["low"],
            close=fields["close"],
            volume=fields["volume"],
        )

    def rows(self, rows: slice) -> Panel:
        """A cut of the time axis."""
        return Panel(
            symbols=self.symbols,
            interval=self.interval,
            ts=self.ts[rows],
            open=self.open[rows],
            high=self.high[rows],
            low=self.low[rows],
            close=self.close[rows],
            volume=self.volume[rows],
            extra={name: values[rows] for name, values in self.extra.items()},
        )

    def tail(self, n: int) -> Panel:
        """The newest `n` rows."""
        return self.rows(slice(max(0, len(self) - n), len(self)))

    def columns(self, columns: slice) -> Panel:
        """A cut of the symbols."""
        return self._with(lambda field: field[:, columns], self.symbols[columns])

    def of(self, symbols: Sequence[str]) -> Panel:
        """The columns of some of the symbols, in that order. Raises ValueError on one that is not there."""
        columns = [self.symbols.index(symbol) for symbol in symbols]
        return self._with(lambda values: values[:, columns], tuple(symbols))

    def by_symbol(self) -> Panel:
        """The same bars with each symbol's series contiguous in memory; copied only where they are not."""

        def contiguous(field: FloatArray) -> FloatArray:
            return field if field.strides[0] == field.itemsize else np.asfortranarray(field)

        return self._with(contiguous, self.symbols)

    @property
    def closes_at(self) -> TimeArray:
        """(T,) when each row is known."""
        return self.ts + np.timedelta64(self.interval)

    def _with(self, change: Callable[[FloatArray], FloatArray], symbols: tuple[str, ...]) -> Panel:
        fields: dict[str, Any] = {name: change(getattr(self, name)) for name in FIELDS}
        extra = {name: change(values) for name, values in self.extra.items()}
        return replace(self, symbols=symbols, extra=extra, **fields)


def to_datetime64(instant: datetime) -> np.datetime64:
    """An aware instant as datetime64[us] in UTC."""
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")


def to_datetime(instant: np.datetime64) -> datetime:
    """A datetime64 in UTC as an aware instant."""
    value: datetime = instant.astype("datetime64[us]").item()
    return value.replace(tzinfo=UTC)
