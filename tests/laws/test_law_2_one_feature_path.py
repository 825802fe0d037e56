"""Law 2: the same definition serves history and live. Both give the same numbers, for every feature."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levibot.features.engine import compute, compute_tail
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import lag, rolling_mean
from levibot.features.view import FeatureView
from levibot.features.views import CORE, VIEWS
from levibot.market.bars import FloatArray, Panel
from levibot.market.parquet import ParquetSource
from levibot.settings import DEFAULT_SYMBOLS

RELATIVE = 1e-6
# Features are of the order of one; a smaller number than this is a zero with rounding.
SMALLEST = 1e-9

Live = Callable[[FeatureView, Panel, int], FloatArray]

stretches = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 60), st.integers(61, 4000)), st.integers(1, 60)),
    max_size=5,
)
listings = st.sampled_from((4200, 3000, 1400, 700, 100, 3))


def check_one_feature_path(
    view: FeatureView, panel: Panel, cuts: Sequence[int], *, rows: int = 1, live: Live = compute_tail
) -> None:
    """At each cut, the newest rows of `live` are those of the whole history.

    Raises AssertionError that names the features.
    """
    history = compute(view, panel)
    for cut in cuts:
        expected = history[cut - rows : cut]
        actual = live(view, panel.rows(slice(0, cut)), rows)
        assert actual.shape == expected.shape
        same = np.isclose(actual, expected, rtol=RELATIVE, atol=SMALLEST, equal_nan=True)
        wrong = [name for name, good in zip(view.names, same.all(axis=(0, 1)), strict=True) if not good]
        assert not wrong, f"live differs from history {len(panel) - cut} rows before the end: {wrong}"


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    listed_rows=listings,
    holes=stretches,
    still=stretches,
    back=st.lists(st.integers(0, 60), min_size=2, max_size=4),
    rows=st.integers(1, 30),
)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_live_gives_what_history_gives(
    make_market, view, seed, listed_rows, holes, still, back, rows
) -> None:
    panel = make_market(seed=seed, listed_rows=listed_rows, holes=holes, still=still)
    cuts = [len(panel) - n for n in back]
    check_one_feature_path(view, panel, cuts, rows=rows)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_live_gives_what_history_gives_before_the_warm_up_ends(make_market, view) -> None:
    check_one_feature_path(view, make_market(), [1, 2, 25, 170, 700, 1345, 1346, 2000, view.warmup_bars])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_the_law_is_tried_on_values_and_not_on_nan(make_market, view) -> None:
    newest = compute_tail(view, make_market(), 1)
    assert np.isfinite(newest).all()


def test_no_feature_needs_more_rows_than_it_states(make_market) -> None:
    panel = make_market(listed_rows=2500, holes=[(0, 30, 10), (1, 3300, 24), (3, 200, 26)])
    for feature in CORE.features:
        check_one_feature_path(FeatureView("one", (feature,)), panel, [len(panel), len(panel) - 25])


def test_every_feature_needs_exactly_the_rows_that_it_states(make_market) -> None:
    panel = make_market()
    for feature in CORE.features:
        one = FeatureView("one", (feature,))
        newest = compute(one, panel)[-1]
        enough = compute(one, panel.tail(feature.warmup_bars))[-1]
        np.testing.assert_allclose(enough, newest, rtol=RELATIVE, err_msg=feature.name)
        if feature.warmup_bars > 1:
            too_few = compute(one, panel.tail(feature.warmup_bars - 1))[-1]
            assert not np.allclose(too_few, newest, rtol=1e-9, atol=0.0), feature.name


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_live_gives_what_history_gives_on_the_recorded_market() -> None:
    source = ParquetSource(Path(os.environ["LEVIBOT_MARKET_DATA"]), DEFAULT_SYMBOLS, timedelta(hours=1))
    start, end = source.extent()
    assert end is not None
    panel = Panel.align({symbol: source.bars(symbol, start, end) for symbol in DEFAULT_SYMBOLS})
    assert len(panel) > 50_000
    check_one_feature_path(CORE, panel, [1_000, 3_000, 22_700, 24_500, 45_000, len(panel)], rows=48)


# What the check must catch.


def endless_average(inputs: Inputs) -> FloatArray:
    squares = np.nan_to_num(inputs.squared_return)
    out = np.zeros_like(squares)
    for row in range(1, len(out)):
        out[row] = out[row - 1] + (squares[row] - out[row - 1]) / 1000.0
    return out


def sample_score(inputs: Inputs) -> FloatArray:
    return (inputs.log_close - np.nanmean(inputs.log_close, axis=0)) / np.nanstd(inputs.log_close, axis=0)


def slow_average(inputs: Inputs) -> FloatArray:
    return rolling_mean(inputs.close, 500)


def simple_return(inputs: Inputs) -> FloatArray:
    return inputs.close / lag(inputs.close, 24) - 1.0


def log_return(inputs: Inputs) -> FloatArray:
    return inputs.log_close - lag(inputs.log_close, 24)


def view_of(formula: Callable[[Inputs], FloatArray], window_bars: int) -> FeatureView:
    feature = Feature(formula.__name__, "planted", "any", "planted fault", ("close",), window_bars, formula)
    return FeatureView("planted", (feature,))


@pytest.mark.parametrize(
    ("formula", "window_bars"),
    [(endless_average, 3000), (sample_score, 3000), (slow_average, 100)],
    ids=["infinite memory", "mean of the whole sample", "warm-up stated too short"],
)
def test_a_feature_that_remembers_more_than_it_states_is_caught(make_market, formula, window_bars) -> None:
    panel = make_market()
    with pytest.raises(AssertionError, match=formula.__name__):
        check_one_feature_path(view_of(formula, window_bars), panel, [len(panel)])


def test_a_second_formula_on_the_live_path_is_caught(make_market) -> None:
    panel = make_market()

    def live(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
        return compute_tail(replace(view, features=view_of(log_return, 25).features), panel, rows)

    with pytest.raises(AssertionError, match="simple_return"):
        check_one_feature_path(view_of(simple_return, 25), panel, [len(panel)], live=live)


def test_a_live_path_that_fills_missing_bars_with_zero_is_caught(make_market) -> None:
    panel = make_market(holes=[(1, 3, 3)])

    def live(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
        return np.nan_to_num(compute_tail(view, panel, rows))

    with pytest.raises(AssertionError, match="return_1"):
        check_one_feature_path(CORE, panel, [len(panel)], live=live)
