"""What perpetual contracts paid, on the bars at whose end it was paid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel, TimeArray
from levibot.market.side_series import FUNDING_RATE, SideSeries


def payments_on_bars(rates: SideSeries, closes_at: TimeArray, interval: timedelta) -> FloatArray:
    """The rate that a position held through each bar pays, (T,); 0 where the bar has no payment.

    rates: of one symbol, each paid at the whole minute at which it is true. closes_at: (T,) of its bars,
    increasing. A payment at the instant of a close falls on the bar that closes then: whoever held through
    that bar pays it, and an order at the next open comes too late. One in an outage falls on no bar.
    """
    paid = np.zeros(len(closes_at))
    # Exchanges stamp a payment some milliseconds after the hour that it was made at.
    paid_at = rates.true_at.astype("datetime64[m]").astype("datetime64[us]")
    row = np.searchsorted(closes_at, paid_at, side="left")
    there = row < len(closes_at)
    there[there] = closes_at[row[there]] - np.timedelta64(interval) < paid_at[there]
    there &= np.isfinite(rates.value)
    np.add.at(paid, row[there], rates.value[there])
    return paid


def funding_of_bars(panel: Panel, series: Sequence[SideSeries]) -> FloatArray:
    """(T, S) the rates that were paid in each bar: after its opening, at its close at the latest.

    A payment is due by who holds at its instant, which is the position of the bar that ends there. Where a
    symbol's contract was not there yet, the rate is 0. Raises DataError on a symbol without any payment in
    the panel: what is to be paid must be known.
    """
    rates = np.zeros(panel.open.shape)
    for column, symbol in enumerate(panel.symbols):
        own = [one for one in series if one.name == FUNDING_RATE and one.symbol == symbol]
        for one in own:
            rates[:, column] += payments_on_bars(one, panel.closes_at, panel.interval)
        if not rates[:, column].any():
            raise DataError(
                f"The market tells no funding payment of {symbol} in these bars: what its contract cost is "
                "not known.",
                hint="Leave funding out, or use a market that has its rates.",
            )
    return rates


def told(panel: Panel, rates: FloatArray) -> dict[str, Any]:
    """By symbol: how many bars had a payment, and since when; JSON values."""
    paid = rates != 0.0
    return {
        symbol: {"bars": int(paid[:, column].sum()), "since": str(panel.ts[paid[:, column].argmax()])[:10]}
        for column, symbol in enumerate(panel.symbols)
    }
