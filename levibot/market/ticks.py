"""Trades, and the bars that they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import Bars, TimeArray, to_datetime64
from levibot.market.validation import empty_bars


@dataclass(frozen=True, slots=True)
class Tick:
    """One trade. ts: when it happened, aware UTC. price > 0 in quote, size > 0 in base currency.

    trade_id: the exchange's own number of it, which grows with time; it tells trades of one instant apart.
    """

    symbol: str
    ts: datetime
    price: float
    size: float
    trade_id: int


def bars_of(symbol: str, interval: timedelta, ticks: Iterable[Tick], as_of: datetime) -> Bars:
    """The bars of `ticks` that are finished at `as_of`.

    ticks: of one symbol, in any order; the same trade twice counts once. The first trade's bar is left out
    unless it opens with it: what was traded before it in that bar is not known. A stretch without trades has
    no bar. Raises DataError on a trade of another symbol, or with a price or size that is not positive.
    """
    by_id = {tick.trade_id: tick for tick in ticks}
    for tick in by_id.values():
        if tick.symbol != symbol:
            raise DataError(f"Trade {tick.trade_id} is of {tick.symbol}, not of {symbol}.")
        if not (np.isfinite(tick.price) and tick.price > 0.0 and np.isfinite(tick.size) and tick.size > 0.0):
            raise DataError(
                f"Trade {tick.trade_id} of {symbol} has price {tick.price} and size {tick.size}: "
                "both must be positive numbers."
            )
    if not by_id:
        return empty_bars(symbol, interval)
    ordered = sorted(by_id.values(), key=lambda tick: (tick.ts, tick.trade_id))
    ts = np.array([to_datetime64(tick.ts) for tick in ordered], "datetime64[us]")
    price = np.array([tick.price for tick in ordered])
    size = np.array([tick.size for tick in ordered])

    step = np.timedelta64(interval)
    epoch = np.datetime64(0, "us")
    opens_at: TimeArray = np.asarray(epoch + (ts - epoch) // step * step, ts.dtype)
    first = np.concatenate(([0], 1 + np.flatnonzero(opens_at[1:] != opens_at[:-1])))
    last = np.append(first[1:], len(ts)) - 1
    whole = np.asarray(opens_at[first] + step <= to_datetime64(as_of))
    whole[0] &= ts[0] == opens_at[0]
    return Bars(
        symbol,
        interval,
        opens_at[first[whole]],
        price[first[whole]],
        np.maximum.reduceat(price, first)[whole],
        np.minimum.reduceat(price, first)[whole],
        price[last[whole]],
        np.add.reduceat(size, first)[whole],
    )
