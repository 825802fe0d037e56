"""Trades, and the bars that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import Bars, FloatArray, TimeArray, to_datetime, to_datetime64
from levibot.market.validation import empty_bars

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

COLUMNS = ("ts", "price", "size", "trade_id", "is_buyer_maker")
# A product of two values inside these limits, and a sum of a great many products, is still a number.
SMALLEST, LARGEST = 1e-15, 1e15
FIRST_TS, END_TS = np.datetime64("1970-01-01", "us"), np.datetime64("2201-01-01", "us")

_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Tick:
    """One trade. ts: when it happened, aware UTC. price > 0 in quote, size > 0 in base currency.

    trade_id: the exchange's own number of it, which grows with time; it tells trades of one instant apart.
    is_buyer_maker: whether the buyer's order was in the book, so that the seller took it.
    """

    symbol: str
    ts: datetime
    price: float
    size: float
    trade_id: int
    is_buyer_maker: bool


@dataclass(frozen=True, slots=True)
class Ticks:
    """Trades of one symbol, as arrays, in any order.

    ts: (T,) datetime64[us] UTC. price, size: (T,) float64 > 0, quote and base currency. trade_id: (T,) int64
    > 0, the exchange's own number. is_buyer_maker: (T,) bool. No NaN, no NaT. The same trade may be there
    twice; the first one counts.
    """

    symbol: str
    ts: TimeArray
    price: FloatArray
    size: FloatArray
    trade_id: IntArray
    is_buyer_maker: BoolArray

    @classmethod
    def of(cls, symbol: str, ticks: Iterable[Tick]) -> Ticks:
        """The trades as arrays. Raises DataError on a trade of another symbol."""
        rows = tuple(ticks)
        for tick in rows:
            if tick.symbol != symbol:
                raise DataError(f"Trade {tick.trade_id} is of {tick.symbol}, not of {symbol}.")
        return cls(
            symbol,
            np.array([to_datetime64(tick.ts) for tick in rows], "datetime64[us]"),
            np.array([tick.price for tick in rows], np.float64),
            np.array([tick.size for tick in rows], np.float64),
            np.array([tick.trade_id for tick in rows], np.int64),
            np.array([tick.is_buyer_maker for tick in rows], np.bool_),
        )

    def __len__(self) -> int:
        return len(self.ts)

    def __iter__(self) -> Iterator[Tick]:
        """Trade by trade; for people and tests, the arrays are for work."""
        for row in range(len(self)):
            yield Tick(
                self.symbol,
                to_datetime(self.ts[row]),
                float(self.price[row]),
                float(self.size[row]),
                int(self.trade_id[row]),
                bool(self.is_buyer_maker[row]),
            )

    def rows(self, rows: slice | IntArray | BoolArray) -> Ticks:
        """Some of the trades: a slice, row numbers, or a mask."""
        return Ticks(self.symbol, *(getattr(self, name)[rows] for name in COLUMNS))

    def then(self, later: Ticks) -> Ticks:
        """These trades followed by others of the same symbol."""
        return joined([self, later])

    def distinct(self) -> Ticks:
        """Each trade once: of those with one trade_id the first in the arrays."""
        if len(self) < 2 or bool((self.trade_id[1:] > self.trade_id[:-1]).all()):
            return self
        _, first = np.unique(self.trade_id, return_index=True)
        return self.rows(np.sort(first)) if len(first) < len(self) else self

    def sorted(self) -> Ticks:
        """In the order of (ts, trade_id): the one in which they happened."""
        return self.rows(np.lexsort((self.trade_id, self.ts)))


def joined(parts: Iterable[Ticks]) -> Ticks:
    """Several pieces of one symbol as one, in their order. Raises DataError on two symbols, or no piece."""
    pieces = tuple(parts)
    symbols = sorted({piece.symbol for piece in pieces})
    if len(symbols) != 1:
        raise DataError(f"Trades of {', '.join(symbols) or 'no symbol'} cannot be one piece.")
    if len(pieces) == 1:
        return pieces[0]
    columns = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in COLUMNS)
    return Ticks(symbols[0], *columns)


def empty_ticks(symbol: str) -> Ticks:
    """No trades."""
    return Ticks(
        symbol,
        _frozen(np.empty(0, "datetime64[us]")),
        _frozen(np.empty(0)),
        _frozen(np.empty(0)),
        _frozen(np.empty(0, np.int64)),
        _frozen(np.empty(0, np.bool_)),
    )


def check_ticks(ticks: Ticks) -> Ticks:
    """The trades as they are, or the first fault in them.

    Raises DataError, one sentence with the row and the value, on a column of another type or length, an
    instant outside 1970 to 2200, a price or size outside 1e-15 to 1e15, a trade_id that is not above 0.
    """
    kinds = ("datetime64[us]", "float64", "float64", "int64", "bool")
    for name, kind in zip(COLUMNS, kinds, strict=True):
        values = getattr(ticks, name)
        if values.dtype != np.dtype(kind) or values.shape != (len(ticks),):
            raise DataError(
                f"The trades of {ticks.symbol} have {name} as {values.dtype} of shape {values.shape}, "
                f"not as {kind} of shape ({len(ticks)},)."
            )
    # Each comparison is false for NaN and NaT, so these are refused too.
    checks = {
        "ts": (ticks.ts >= FIRST_TS) & (ticks.ts < END_TS),
        "price": (ticks.price >= SMALLEST) & (ticks.price <= LARGEST),
        "size": (ticks.size >= SMALLEST) & (ticks.size <= LARGEST),
        "trade_id": ticks.trade_id > 0,
    }
    for name, is_good in checks.items():
        if not is_good.all():
            row = int(np.argmin(is_good))
            raise DataError(
                f"Trade {ticks.trade_id[row]} of {ticks.symbol}, row {row}: "
                f"{name} {getattr(ticks, name)[row]} is out of its limits.",
                hint=f"ts lies in 1970 to 2200, price and size in {SMALLEST:g} to {LARGEST:g}, "
                "trade_id is above 0.",
            )
    return ticks


def bars_of(ticks: Ticks, interval: timedelta, as_of: datetime) -> Bars:
    """The bars of `ticks` that are finished at `as_of`.

    The first trade's bar is left out unless it opens with it: what was traded before it in that bar is not
    known. A stretch without trades has no bar. Raises DataError as `check_ticks` does.
    """
    whole_set = check_ticks(ticks).distinct().sorted()
    if not len(whole_set):
        return empty_bars(ticks.symbol, interval)
    ts, price, size = whole_set.ts, whole_set.price, whole_set.size

    step = np.timedelta64(interval)
    epoch = np.datetime64(0, "us")
    opens_at: TimeArray = np.asarray(epoch + (ts - epoch) // step * step, ts.dtype)
    first = np.concatenate(([0], 1 + np.flatnonzero(opens_at[1:] != opens_at[:-1])))
    last = np.append(first[1:], len(ts)) - 1
    whole = np.asarray(opens_at[first] + step <= to_datetime64(as_of))
    whole[0] &= ts[0] == opens_at[0]
    return Bars(
        ticks.symbol,
        interval,
        opens_at[first[whole]],
        price[first[whole]],
        np.maximum.reduceat(price, first)[whole],
        np.minimum.reduceat(price, first)[whole],
        price[last[whole]],
        np.add.reduceat(size, first)[whole],
    )


def _frozen(array: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    array.flags.writeable = False
    return array
