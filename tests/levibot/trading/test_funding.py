"""A payment falls on the bar that a position was held through when it was due."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from levibot.market.side_series import FUNDING_RATE, SideSeries
from levibot.trading.funding import payments_on_bars

HOUR = timedelta(hours=1)


def test_each_payment_falls_on_one_bar() -> None:
    hours = np.array([1, 2, 3, 6, 7])  # closes; the market was out from 3 to 5
    closes_at = np.datetime64("2021-01-01", "us") + hours * np.timedelta64(1, "h")
    minutes = np.array([0, 120, 121, 270, 360, 420, 421])
    at = np.datetime64("2021-01-01", "us") + minutes * np.timedelta64(1, "m")
    rates = SideSeries(FUNDING_RATE, "BTCUSDT", at, np.array([1.0, 2.0, 4.0, 8.0, 16.0, np.nan, 32.0]))
    # At 0:00 nobody held a bar yet, at 4:30 there was none, at 7:00 nothing is known, 7:01 is too late.
    assert payments_on_bars(rates, closes_at, HOUR).tolist() == [0.0, 2.0, 4.0, 16.0, 0.0]
    assert payments_on_bars(rates, closes_at[:0], HOUR).tolist() == []
