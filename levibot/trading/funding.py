"""What perpetual contracts paid, on the bars at whose end it was paid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel
from levibot.market.side_series import FUNDING_RATE, SideSeries


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
            # Exchanges stamp a payment some milliseconds after the hour that it was made at.
            paid_at = one.true_at.astype("datetime64[m]").astype("datetime64[us]")
            rows = np.searchsorted(panel.closes_at, paid_at)
            there = (rows < len(panel)) & np.isfinite(one.value)
            there[there] &= panel.ts[rows[there]] < paid_at[there]
            np.add.at(rates[:, column], rows[there], one.value[there])
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
