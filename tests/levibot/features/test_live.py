"""The live window: the newest bars, whatever the order they come in, and what history gives."""

from __future__ import annotations

import sys
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levibot.errors import UnknownSymbol, UsageError
from levibot.features.calendar import CALENDAR
from levibot.features.compiled import Kernel
from levibot.features.engine import compute
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.live import LiveWindow
from levibot.features.returns import RETURNS
from levibot.features.view import FeatureView
from levibot.features.views import CORE, FULL
from levibot.features.volatility import vol
from levibot.market.bars import Bar, FloatArray, Panel, to_datetime

HOUR = timedelta(hours=1)
# Short enough for the window's end to be reached many times.
SHORT = FeatureView(
    "short", (*CALENDAR, Feature("vol_5", "volatility", "any", "a test", ("close",), 6, vol, (("bars", 5),)))
)


def bars_of(panel: Panel, row: int) -> list[Bar]:
    """The bars of one row, of the symbols that have one."""
    fields = (panel.open, panel.high, panel.low, panel.close, panel.volume)
    return [
        Bar(symbol, panel.interval, to_datetime(panel.ts[row]), *(float(f[row, column]) for f in fields))
        for column, symbol in enumerate(panel.symbols)
        if not np.isnan(panel.close[row, column])
    ]


def test_each_new_bar_gives_the_newest_row_of_history(small_market) -> None:
    window = LiveWindow(CORE, small_market.symbols, HOUR)
    window.load(small_market.rows(slice(0, 1600)))
    for row in range(1600, 1620):
        window.put(bars_of(small_market, row))
        expected = compute(CORE, small_market.rows(slice(0, row + 1)))[-1:]
        np.testing.assert_allclose(window.features(), expected, rtol=1e-9, atol=1e-12)


def test_the_first_bar_waits_for_no_compiler(small_market) -> None:
    window = LiveWindow(FULL, small_market.symbols, HOUR)
    kernels = [
        value
        for name, module in sys.modules.items()
        if name.startswith("levibot.features.")
        for value in vars(module).values()
        if isinstance(value, Kernel) and "dispatcher" in vars(value)
    ]
    compiled = [len(kernel.dispatcher.signatures) for kernel in kernels]
    assert sum(compiled) > 20
    window.load(small_market)
    window.put(bars_of(small_market, -1))
    window.features()
    assert [len(kernel.dispatcher.signatures) for kernel in kernels] == compiled


def test_the_window_runs_on_beyond_its_memory(small_market) -> None:
    window = LiveWindow(SHORT, small_market.symbols, HOUR, rows=3)
    history = compute(SHORT, small_market)
    assert len(window.features()) == 0
    for row in range(200):
        window.put(bars_of(small_market, row))
        assert len(window) == min(row + 1, SHORT.warmup_bars + 3)
        features = window.features()
        assert features.shape == (min(row + 1, 3), 3, len(SHORT.features))
        np.testing.assert_allclose(features, history[max(0, row - 2) : row + 1], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_rows=st.integers(2, 45))
def test_bars_may_come_in_any_order(small_market, seed, n_rows) -> None:
    rng = np.random.default_rng(seed)
    bars = [bar for row in range(n_rows) for bar in bars_of(small_market, row)]
    # Nobody has a bar in some rows: late ones must find their place.
    kept = [bars[n] for n in rng.permutation(len(bars)) if rng.random() > 0.3 or n == len(bars) - 1]
    in_order, shuffled = (LiveWindow(SHORT, small_market.symbols, HOUR, rows=2) for _ in range(2))
    in_order.put(sorted(kept, key=lambda bar: bar.ts))
    shuffled.put(kept)
    # What came before the window was full may reach back farther; the newest rows are the same.
    n = min(len(in_order), len(shuffled), SHORT.warmup_bars)
    np.testing.assert_array_equal(in_order.panel.ts[-n:], shuffled.panel.ts[-n:])
    np.testing.assert_array_equal(in_order.panel.close[-n:], shuffled.panel.close[-n:])
    np.testing.assert_allclose(in_order.features(), shuffled.features(), rtol=1e-9)


def test_a_bar_that_comes_again_replaces_the_first(small_market) -> None:
    window = LiveWindow(SHORT, small_market.symbols, HOUR)
    window.load(small_market.tail(20))
    last = bars_of(small_market, -1)[1]
    window.put([Bar(last.symbol, HOUR, last.ts, 1.0, 3.0, 0.5, 2.0, 7.0)])
    assert len(window) == 20
    assert window.panel.close[-1, 1] == 2.0
    assert window.panel.close[-1, 0] == small_market.close[-1, 0]


def test_a_bar_older_than_a_full_window_is_dropped(small_market) -> None:
    window = LiveWindow(SHORT, small_market.symbols, HOUR)
    window.load(small_market)
    before = window.features()
    window.put(bars_of(small_market, 0))
    assert window.panel.ts[0] == small_market.ts[-len(window)]
    np.testing.assert_array_equal(window.features(), before)


def funding(inputs: Inputs) -> FloatArray:
    return inputs.extra("funding")


def test_side_series_stand_in_their_row(small_market) -> None:
    view = FeatureView("side", (Feature("funding", "any", "any", "a test", (), 1, funding), *RETURNS))
    window = LiveWindow(view, small_market.symbols, HOUR, side_series=("funding",))
    window.load(small_market.tail(50))
    assert np.isnan(window.features()[0, :, 0]).all()
    window.put_side("funding", "ETHUSDT", small_market.ts[-1], 0.25)
    np.testing.assert_array_equal(window.features()[0, :, 0], [np.nan, 0.25, np.nan])
    with pytest.raises(UsageError, match="no side series 'news'"):
        window.put_side("news", "ETHUSDT", small_market.ts[-1], 0.25)


def test_what_does_not_fit_is_refused(small_market) -> None:
    window = LiveWindow(SHORT, small_market.symbols, HOUR)
    bar = bars_of(small_market, 0)[0]
    with pytest.raises(UnknownSymbol, match="does not hold DOGEUSDT"):
        window.put([Bar("DOGEUSDT", HOUR, bar.ts, 1.0, 1.0, 1.0, 1.0, 1.0)])
    assert len(window) == 0
    with pytest.raises(UsageError, match="does not fit"):
        window.put([Bar(bar.symbol, 4 * HOUR, bar.ts, 1.0, 1.0, 1.0, 1.0, 1.0)])
    with pytest.raises(UsageError, match="cannot hold a panel of 1"):
        window.load(small_market.columns(slice(0, 1)))
    with pytest.raises(UsageError, match="0 rows and 3 symbols"):
        LiveWindow(SHORT, small_market.symbols, HOUR, rows=0)
