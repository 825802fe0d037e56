"""The market of a backtest, as its source tells it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from levibot.errors import DataError
from levibot.features.side_data import attach_told
from levibot.features.view import FeatureView
from levibot.learning.walk_forward import last_day_before
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.market.side_series import FUNDING_RATE
from levibot.trading.conditions import Conditions
from levibot.trading.funding import funding_of_bars

if TYPE_CHECKING:
    from levibot.market.sources import Source


def load_panel(
    source: Source, symbols: tuple[str, ...], view: FeatureView, train_start: datetime, test_end: datetime
) -> Panel:
    """The bars of a backtest, with those that warm the features up. Raises DataError where there are none."""
    market_start, _ = source.extent()
    if test_end <= market_start:
        raise DataError(
            f"The market begins on {market_start:%Y-%m-%d}, after the test, which is to end on "
            f"{last_day_before(test_end):%Y-%m-%d}."
        )
    start = max(market_start, train_start - view.warmup_bars * source.interval)
    bars = {symbol: source.bars(symbol, start, test_end) for symbol in symbols}
    empty = [symbol for symbol, of_symbol in bars.items() if len(of_symbol) == 0]
    if empty:
        raise DataError(
            f"{empty[0]} has no bars from {start:%Y-%m-%d} to {last_day_before(test_end):%Y-%m-%d}."
        )
    return attach_told(Panel.align(bars), source, view)


def funding_told(source: Source, panel: Panel, conditions: Conditions) -> FloatArray | None:
    """(T, S) what the market's contracts paid, where anybody is to pay it. Raises as `funding_of_bars`."""
    if conditions.terms.funded == "none":
        return None
    first, last = to_datetime(panel.ts[0]), to_datetime(panel.closes_at[-1])
    return funding_of_bars(
        panel, source.side_series((FUNDING_RATE,), first, last + timedelta(microseconds=1))
    )
