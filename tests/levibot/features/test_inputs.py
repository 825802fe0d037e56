"""What the features share: bridged holes and the volatilities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from levibot.features.inputs import FILL_LIMIT, Inputs
from levibot.market.bars import FIELDS


def test_a_bridged_row_has_the_last_close_no_range_and_no_volume(small_market) -> None:
    fields = {name: getattr(small_market, name).copy() for name in FIELDS}
    for field in fields.values():
        field[50 : 50 + FILL_LIMIT + 1, 1] = np.nan
    inputs = Inputs(replace(small_market, **fields))
    bridged = slice(50, 50 + FILL_LIMIT)
    for series in (inputs.close, inputs.high, inputs.low):
        assert (series[bridged, 1] == small_market.close[49, 1]).all()
    assert (inputs.dollar_volume[bridged, 1] == 0.0).all()
    assert (inputs.log_return[bridged, 1] == 0.0).all()
    for series in (inputs.close, inputs.high, inputs.low, inputs.dollar_volume):
        assert np.isnan(series[50 + FILL_LIMIT, 1])


def test_a_tail_takes_what_is_longer_than_itself_from_the_whole(small_market) -> None:
    whole = Inputs(small_market)
    tail = whole.tail(30)
    assert len(tail.panel) == 30
    np.testing.assert_array_equal(tail.sigma_slow, whole.sigma_slow[-30:])
    np.testing.assert_array_equal(tail.scaled_change(24)[24:], whole.scaled_change(24)[-6:])


def test_a_tail_that_begins_in_a_hole_knows_the_close_before_it(small_market) -> None:
    fields = {name: getattr(small_market, name).copy() for name in FIELDS}
    for field in fields.values():
        field[-32:-28, 1] = np.nan
    tail = Inputs(replace(small_market, **fields)).tail(30)
    assert tail.close[0, 1] == small_market.close[-33, 1]


def test_a_symbol_alone_has_the_series_that_it_has_among_others(small_market) -> None:
    whole = Inputs(small_market)
    alone = whole.alone(1)
    assert alone.panel.symbols == ("ETHUSDT",)
    for name in ("close", "high", "low", "log_return", "dollar_volume", "sigma_slow", "sigma_fast"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[:, [1]], err_msg=name)


def test_a_shared_series_is_computed_once(small_market) -> None:
    whole = Inputs(small_market)
    calls = []

    def compute():
        calls.append(len(calls))
        return whole.close + 1.0

    first = whole.shared("plus_one", compute)
    assert whole.shared("plus_one", compute) is first
    np.testing.assert_array_equal(whole.alone(2).shared("plus_one", compute), first[:, [2]])
    assert calls == [0]


def test_a_cut_of_the_rows_computes_a_shared_series_itself(small_market) -> None:
    whole = Inputs(small_market)
    whole.shared("rows", lambda: whole.close)
    tail = whole.tail(5)
    assert len(tail.shared("rows", lambda: tail.close)) == 5
