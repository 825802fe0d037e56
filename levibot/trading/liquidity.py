"""How much of a market there is to trade against: what an order's impact is measured by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel

WINDOW_BARS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Liquidity:
    """volume: (T, S) > 0, base currency a bar. volatility: (T, S) >= 0, deviation of one bar's log return.

    Both as known before the row's bar opens; finite everywhere, because an order's cost always has a value.
    """

    volume: FloatArray
    volatility: FloatArray

    def rows(self, rows: slice) -> Liquidity:
        """A cut of the time axis."""
        return Liquidity(self.volume[rows], self.volatility[rows])

    def columns(self, columns: list[int]) -> Liquidity:
        """Some of the symbols."""
        return Liquidity(self.volume[:, columns], self.volatility[:, columns])


def trailing_liquidity(panel: Panel, window_bars: int = WINDOW_BARS) -> Liquidity:
    """Mean volume and volatility of the `window_bars` rows before each row.

    Rows in which a symbol has no bar do not count. Where a window knows nothing (a listing's first bars, an
    outage, no volume at all) the last known value stands, and before the first one that first one: no
    decision is taken on it, it only prices an order. Raises DataError on a symbol that never shows any
    volume or move, and on a window below 2.
    """
    if window_bars < 2:
        raise DataError(f"The window is {window_bars} bars: a volatility needs at least 2.")
    moves = np.full(panel.close.shape, np.nan)
    moves[1:] = np.log(panel.close[1:] / panel.close[:-1])
    mean_square = _trailing_mean(np.square(moves), window_bars)
    volume = _trailing_mean(panel.volume, window_bars)
    return Liquidity(_carried(panel, "volume", volume), np.sqrt(_carried(panel, "move", mean_square)))


def _trailing_mean(values: FloatArray, window_bars: int) -> FloatArray:
    """(T, S) mean of the known values of the rows before each row, NaN where there are none."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    total, count = np.zeros_like(values), np.zeros_like(values)
    # Bar by bar of the window, not as a difference of running sums: that leaves a rounding where nothing is.
    for age in range(1, min(window_bars, len(values) - 1) + 1):
        total[age:] += filled[:-age]
        count[age:] += known[:-age]
    return np.divide(total, count, out=np.full_like(values, np.nan), where=count > 0.0)


def _carried(panel: Panel, what: str, values: FloatArray) -> FloatArray:
    """Each value that is not above zero replaced by the last one that was, or by the first to come."""
    there = values > 0.0
    for column, symbol in enumerate(panel.symbols):
        if not there[:, column].any():
            raise DataError(f"{symbol} shows no {what} in {len(panel)} bars: its impact cannot be measured.")
    rows = np.where(there, np.arange(len(values))[:, None], -1)
    last = np.maximum.accumulate(rows, axis=0)
    last = np.where(last >= 0, last, there.argmax(axis=0))
    return np.take_along_axis(values, last, axis=0)
