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

from levibot.features.check import (
    RELATIVE,
    SMALLEST,
    Live,
    check_one_path,
    check_own_symbol,
    warmup_sensitivity,
)
from levibot.features.engine import compute, compute_tail
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import lag, rolling_mean
from levibot.features.tail import Tail
from levibot.features.view import FeatureView
from levibot.features.views import CORE, VIEWS
from levibot.market.bars import FIELDS, FloatArray, Panel
from levibot.market.parquet import ParquetSource
from levibot.settings import DEFAULT_SYMBOLS

# The view that holds every feature; the others are parts of it.
FULLEST = max(VIEWS, key=lambda view: len(view.features))

# What runs for each new bar: recorded on the first window, played on all others, of whatever market.
TAILS: dict[int, Tail] = {}


def played(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
    assert view is FULLEST
    return TAILS.setdefault(rows, Tail(view, rows)).compute(panel)


stretches = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 60), st.integers(61, 4000)), st.integers(1, 60)),
    max_size=5,
)
listings = st.sampled_from((4200, 3000, 1400, 700, 100, 3))


def assert_one_feature_path(
    view: FeatureView, panel: Panel, cuts: Sequence[int], *, rows: int = 1, live: Live = compute_tail
) -> None:
    """Raises AssertionError that names the features whose live values are not those of history."""
    violations = check_one_path(view, panel, cuts, rows=rows, live=live)
    assert not violations, "\n".join(map(str, violations))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    listed_rows=listings,
    holes=stretches,
    still=stretches,
    back=st.lists(st.integers(0, 60), min_size=2, max_size=4),
    rows=st.sampled_from((1, 2, 30)),
)
def test_live_gives_what_history_gives(make_market, seed, listed_rows, holes, still, back, rows) -> None:
    panel = make_market(seed=seed, listed_rows=listed_rows, holes=holes, still=still)
    cuts = [len(panel) - n for n in back]
    assert_one_feature_path(FULLEST, panel, cuts, rows=rows, live=played)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_live_gives_what_history_gives_before_the_warm_up_ends(make_market, view) -> None:
    assert_one_feature_path(view, make_market(), [1, 2, 25, 170, 700, 1345, 1346, 2000, view.warmup_bars])


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_the_law_is_tried_on_values_and_not_on_nan(make_market, view) -> None:
    newest = compute_tail(view, make_market(), 1)
    assert np.isfinite(newest).all()


def test_no_feature_needs_more_rows_than_it_states(make_market) -> None:
    panel = make_market(listed_rows=2500, holes=[(0, 30, 10), (1, 3300, 24), (3, 200, 26)])
    history = dict(zip(FULLEST.names, np.moveaxis(compute(FULLEST, panel), 2, 0), strict=True))
    for cut in (len(panel), len(panel) - 25):
        for feature in FULLEST.features:
            # A view of one feature reads no more rows than that feature states.
            newest = compute_tail(FeatureView("one", (feature,)), panel.rows(slice(0, cut)), 1)[-1, :, 0]
            expected = history[feature.name][cut - 1]
            np.testing.assert_allclose(newest, expected, RELATIVE, SMALLEST, err_msg=feature.name)


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


def test_every_feature_of_every_view_is_in_the_fullest() -> None:
    assert {feature for view in VIEWS for feature in view.features} == set(FULLEST.features)


def test_a_window_twice_as_long_moves_no_value(make_market) -> None:
    two = [make_market(seed=seed, listed_rows=seed % 2 * 2500 + 1700) for seed in (1, 2)]
    # Two markets end to end are long enough.
    hours = np.timedelta64(len(two[0]) + 1, "h")
    panel = replace(
        two[0],
        ts=np.concatenate([two[0].ts, two[1].ts - two[1].ts[0] + two[0].ts[0] + hours]),
        **{name: np.concatenate([getattr(one, name) for one in two]) for name in FIELDS},
        extra={name: np.concatenate([one.extra[name] for one in two]) for name in two[0].extra},
    )
    moved = {name: move for name, move in warmup_sensitivity(FULLEST, panel).items() if move > RELATIVE}
    assert not moved


def test_a_symbol_is_the_same_alone_and_among_others(make_market) -> None:
    panel = make_market(listed_rows=2500, holes=[(0, 30, 10), (1, 3300, 24), (3, 200, 26)])
    assert not check_own_symbol(FULLEST, panel)


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_live_gives_what_history_gives_on_the_recorded_market() -> None:
    source = ParquetSource(Path(os.environ["LEVIBOT_MARKET_DATA"]), DEFAULT_SYMBOLS, timedelta(hours=1))
    start, end = source.extent()
    assert end is not None
    panel = Panel.align({symbol: source.bars(symbol, start, end) for symbol in DEFAULT_SYMBOLS})
    assert len(panel) > 50_000
    assert_one_feature_path(CORE, panel, [1_000, 3_000, 22_700, 24_500, 45_000, len(panel)], rows=48)


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


def market_level(inputs: Inputs) -> FloatArray:
    return np.broadcast_to(inputs.log_close.mean(axis=1, keepdims=True), inputs.log_close.shape)


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
        assert_one_feature_path(view_of(formula, window_bars), panel, [len(panel)])


def test_a_second_formula_on_the_live_path_is_caught(make_market) -> None:
    panel = make_market()

    def live(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
        return compute_tail(replace(view, features=view_of(log_return, 25).features), panel, rows)

    with pytest.raises(AssertionError, match="simple_return"):
        assert_one_feature_path(view_of(simple_return, 25), panel, [len(panel)], live=live)


def test_a_live_path_that_fills_missing_bars_with_zero_is_caught(make_market) -> None:
    panel = make_market(holes=[(1, 3, 3)])

    def live(view: FeatureView, panel: Panel, rows: int) -> FloatArray:
        return np.nan_to_num(compute_tail(view, panel, rows))

    with pytest.raises(AssertionError, match="return_1"):
        assert_one_feature_path(CORE, panel, [len(panel)], live=live)


def test_a_feature_that_moves_with_its_window_is_measured(make_market) -> None:
    moved = warmup_sensitivity(view_of(endless_average, 1000), make_market())
    assert moved["endless_average"] > 1e-3
    assert warmup_sensitivity(view_of(log_return, 25), make_market()) == {"log_return": 0.0}
    assert warmup_sensitivity(view_of(slow_average, 300), make_market()) == {"slow_average": np.inf}


def test_a_feature_that_reads_other_symbols_in_secret_is_caught(make_market) -> None:
    [violation] = check_own_symbol(view_of(market_level, 1), make_market())
    assert violation.feature == "market_level"
