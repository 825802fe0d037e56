"""Bars of a second or a few, made of trades."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from levibot.market.bars import FloatArray, TimeArray
from levibot.market.ticks import IntArray

FIELDS = ("open", "high", "low", "close", "volume", "vwap")


@dataclass(frozen=True, slots=True)
class TickBars:
    """Bars of one symbol, oldest first; a stretch without trades is a missing row. The last may grow still.

    ts: (T,) datetime64[us] UTC, opening instants. open, high, low, close, vwap: (T,) > 0 in quote currency.
    volume: (T,) > 0 in base currency. n_ticks: (T,) int64 > 0. No NaN.
    """

    symbol: str
    interval: timedelta
    ts: TimeArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    vwap: FloatArray
    n_ticks: IntArray

    def __len__(self) -> int:
        return len(self.ts)
