"""The full view on markets that break formulas: standing, untraded, holed, newly listed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.views import FULL
from levibot.market.bars import FIELDS, FloatArray, Panel

# Exponential averages that are known before their window is full, as the slow volatility is.
EARLY = {"vol_fast", "vol_ratio_fast"}
PRICES = ("open", "high", "low", "close")


def changed(panel: Panel, rows: slice, symbol: int, **values: float) -> Panel:
    """The panel with some fields of one symbol set to a number in these rows."""
    fields = {name: getattr(panel, name).copy() for name in FIELDS}
    for name, value in values.items():
        fields[name][rows, symbol] = value
    return replace(panel, **fields)


def values_of(panel: Panel) -> FloatArray:
    values = compute(FULL, panel)
    assert not np.isinf(values).any()
    return values


def test_a_feature_is_first_known_when_its_rows_are_there(long_market, full_values) -> None:
    for feature in FULL.features:
        if feature.name in EARLY:
            continue
        before = full_values[feature.name][: feature.window_bars - 1]
        assert np.isnan(before).all(), feature.name
    assert all(np.isfinite(full_values[name][-1]).all() for name in FULL.names)


def test_a_market_that_never_moved_gives_nan_or_a_number_and_no_warning(long_market) -> None:
    still = long_market
    for symbol in range(3):
        still = changed(still, slice(None), symbol, **dict.fromkeys(PRICES, 0.1), volume=0.0)
    newest = values_of(still)[-1, 0]
    known = {n for n, v in zip(FULL.names, newest, strict=True) if np.isfinite(v)}
    for name in (
        "rsi_14",
        "adx_14",
        "cci_20",
        "money_flow_14",
        "hurst_168",
        "leader_beta_168",
        "vwap_gap_24",
    ):
        assert name not in known
    # What is counted, not divided by a move, is known.
    assert {"zero_returns_168", "roll_spread_24", "price_entropy_168", "since_high_168", "weekend"} <= known


def test_an_untraded_day_leaves_no_infinity(long_market) -> None:
    values_of(changed(long_market, slice(-24, None), 1, volume=0.0))


def test_a_wild_first_bar_of_a_listing_spoils_nothing_after_the_windows(long_market, full_values) -> None:
    listed = 200
    panel = changed(long_market, slice(None, listed), 2, **dict.fromkeys(FIELDS, np.nan))
    close = float(long_market.close[listed, 2])
    wild = changed(
        panel, slice(listed, listed + 1), 2, open=close, high=close * 50, low=close / 50, close=close
    )
    values = values_of(wild)
    for position, feature in enumerate(FULL.features):
        if feature.scaled or feature.reads_others:
            continue
        after = values[listed + feature.window_bars + 1 :, 2, position]
        expected = full_values[feature.name][listed + feature.window_bars + 1 :, 2]
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-7, err_msg=feature.name)


@pytest.mark.parametrize("hole", [1, 24, 25, 200])
def test_a_hole_leaves_no_infinity_and_the_rows_after_it_are_known_again(long_market, hole) -> None:
    panel = changed(long_market, slice(1000, 1000 + hole), 1, **dict.fromkeys(FIELDS, np.nan))
    values = values_of(panel)
    assert np.isnan(values[1000 : 1000 + hole, 1]).all()
    assert np.isfinite(values[-1, 1, FULL.index("rsi_14")])
    short = values[1000 + hole + 30, 1, FULL.index("stochastic_14")]
    assert np.isfinite(short)


@pytest.mark.parametrize("name", ["leader_beta_168", "skewness_168", "price_entropy_168", "since_high_168"])
def test_the_text_of_a_compiled_window_is_part_of_the_definition(name) -> None:
    definition = FULL.features[FULL.index(name)].definition
    kernel = {
        "leader_beta_168": "_regression",
        "skewness_168": "def power_sums(",
        "price_entropy_168": "def _ordinal_codes(",
        "since_high_168": "def _since_max(",
    }[name]
    assert kernel in definition
