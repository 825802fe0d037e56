"""The engine: shapes, what is NaN and why, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError, UsageError
from levibot.features.engine import compute, compute_stretches, compute_tail
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.market.bars import FIELDS, FloatArray, Panel


def damaged(panel: Panel, rows: slice, symbol: int, **fields: float) -> Panel:
    """The panel with some fields of one symbol set to a number; without fields, without the bars."""
    changed = {name: getattr(panel, name).copy() for name in fields or FIELDS}
    for name, field in changed.items():
        field[rows, symbol] = fields.get(name, np.nan)
    return replace(panel, **changed)


def test_history_has_a_row_a_bar_and_a_column_a_feature(small_market) -> None:
    values = compute(CORE, small_market)
    assert values.shape == (len(small_market), 3, len(CORE.names))
    assert values.dtype == np.float64


def test_the_series_of_a_feature_and_symbol_is_contiguous(small_market) -> None:
    assert compute(CORE, small_market)[:, 1, 7].flags.contiguous


def test_memory_is_used_again_where_it_is_given(small_market) -> None:
    shape = (len(small_market), 3, len(CORE.names))
    out = np.full(shape, 7.0, order="F")
    assert compute(CORE, small_market, out) is out
    np.testing.assert_array_equal(out, compute(CORE, small_market))
    for wrong in (np.empty(shape), np.empty((5, 3, 2), order="F")):
        with pytest.raises(UsageError, match="Fortran order"):
            compute(CORE, small_market, wrong)


@pytest.mark.parametrize("stretch_rows", [250, 1699, 1700, 5000])
def test_stretches_laid_end_to_end_are_history(small_market, stretch_rows) -> None:
    stretches = list(compute_stretches(CORE, small_market, stretch_rows))
    assert [rows.stop for rows, _ in stretches][-1] == len(small_market)
    assert all(len(values) == rows.stop - rows.start for rows, values in stretches)
    together = np.concatenate([values for _, values in stretches])
    np.testing.assert_allclose(together, compute(CORE, small_market), rtol=1e-9, atol=1e-12)


def test_a_stretch_without_rows_is_refused(small_market) -> None:
    with pytest.raises(UsageError, match=r"^A stretch of 0 rows"):
        next(compute_stretches(CORE, small_market, 0))


def market_mean(inputs: Inputs) -> FloatArray:
    return inputs.across(inputs.log_return)


def leader_close(inputs: Inputs) -> FloatArray:
    return inputs.close[:, [inputs.leader]] / inputs.close


@pytest.mark.parametrize("formula", [market_mean, leader_close], ids=lambda formula: formula.__name__)
def test_a_formula_that_reads_other_symbols_must_say_so(small_market, formula) -> None:
    silent = Feature("silent", "cross_asset", "any", "a test", ("close",), 2, formula)
    with pytest.raises(UsageError, match="reads_others=True"):
        compute(FeatureView("silent", (silent,)), small_market)
    said = FeatureView("said", (replace(silent, reads_others=True),))
    assert np.isfinite(compute(said, small_market)[1:]).all()


def test_the_tail_is_as_long_as_asked(small_market) -> None:
    assert compute_tail(CORE, small_market, 5).shape == (5, 3, len(CORE.names))


def test_a_panel_without_rows_has_no_features(small_market) -> None:
    assert compute(CORE, small_market.rows(slice(0, 0))).shape == (0, 3, len(CORE.names))


@pytest.mark.parametrize("rows", [0, -1, 1701])
def test_more_rows_than_there_are_is_refused(small_market, rows) -> None:
    with pytest.raises(UsageError, match=f"^{rows} rows"):
        compute_tail(CORE, small_market, rows)


def test_a_price_of_zero_is_refused(small_market) -> None:
    with pytest.raises(DataError, match="low is not positive"):
        compute(CORE, damaged(small_market, slice(100, 101), 1, low=0.0))


def test_no_bar_no_signal(small_market) -> None:
    values = compute(CORE, damaged(small_market, slice(1600, 1610), 1))
    assert np.isnan(values[1600:1610, 1]).all()
    assert np.isfinite(values[1600:1610, 0]).all()
    assert np.isfinite(values[1610:, 1]).all()


def test_the_return_over_a_hole_is_seen_when_the_bars_come_back(small_market) -> None:
    values = compute(CORE, damaged(small_market, slice(1600, 1610), 1))
    change = np.log(small_market.close[1610, 1] / small_market.close[1599, 1])
    sigma = values[1610, 1, CORE.index("vol_slow")] / np.sqrt(8760)
    assert values[1610, 1, CORE.index("return_1")] == pytest.approx(change / sigma)


def test_a_hole_longer_than_the_limit_restarts_the_windows(small_market) -> None:
    values = compute(CORE, damaged(small_market, slice(1400, 1425), 1))
    short = values[:, 1, CORE.index("vol_24")]
    assert np.isnan(short[1425 : 1425 + 24]).all()
    assert np.isfinite(short[1425 + 24])


def test_hours_without_trade_give_nan_and_never_infinity(small_market) -> None:
    price = small_market.close[1649, 0]
    still = damaged(
        small_market, slice(1650, None), 0, open=price, high=price, low=price, close=price, volume=0.0
    )
    values = compute(CORE, still)
    assert not np.isinf(values).any()
    unknown = {name for name, value in zip(CORE.names, values[-1, 0], strict=True) if np.isnan(value)}
    assert unknown == {
        "donchian_24",
        "rsi_14",
        "vol_ratio_24",
        "parkinson_ratio_24",
        "volume_ratio_4_168",
        "volume_ratio_24_168",
        "volume_ratio_24_672",
        "signed_volume_24",
        "illiquidity_ratio_24_672",
        "close_location_24",
    }


def test_a_market_that_never_moved_has_no_volatility_to_scale_with(small_market) -> None:
    still = small_market
    for symbol in range(3):
        still = damaged(still, slice(None), symbol, open=1.5, high=1.5, low=1.5, close=1.5)
    values = compute(CORE, still)
    for name in ("vol_slow", "return_24", "trend_168", "relative_trend_168", "sma_gap_24", "rsi_14"):
        assert np.isnan(values[:, :, CORE.index(name)]).all()


def test_years_are_counted_in_bars_of_the_panel(small_market) -> None:
    four_hours = replace(small_market, interval=timedelta(hours=4))
    fast = CORE.index("vol_fast")
    hourly, slower = compute(CORE, small_market)[-1, :, fast], compute(CORE, four_hours)[-1, :, fast]
    np.testing.assert_allclose(slower, hourly / 2.0)
