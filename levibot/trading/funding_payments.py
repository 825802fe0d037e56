"""Which bar a funding payment falls on."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from levibot.market.bars import FloatArray, TimeArray
from levibot.market.side_series import SideSeries


def payments_on_bars(rates: SideSeries, closes_at: TimeArray, interval: timedelta) -> FloatArray:
    """The rate that a position held through each bar pays, (T,); 0 where the bar has no payment.

    rates: of one symbol, each paid at the instant at which it is true. closes_at: (T,) of its bars,
    increasing. A payment at the instant of a close falls on the bar that closes then: whoever held through
    that bar pays it, and an order at the next open comes too late. One in an outage falls on no bar.
    """
    paid = np.zeros(len(closes_at))
    row = np.searchsorted(closes_at, rates.true_at, side="left")
    there = row < len(closes_at)
    there[there] = closes_at[row[there]] - np.timedelta64(interval) < rates.true_at[there]
    there &= np.isfinite(rates.value)
    np.add.at(paid, row[there], rates.value[there])
    return paid
