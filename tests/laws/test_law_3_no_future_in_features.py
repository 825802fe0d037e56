"""Law 3 for features: what comes later never changes a value, whether it is cut off or replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levibot.features.check import another_future, check_no_future
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import rolling_mean
from levibot.features.view import FeatureView
from levibot.features.views import VIEWS
from levibot.market.bars import FloatArray, Panel

FULLEST = max(VIEWS, key=lambda view: len(view.features))

stretches = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 60), st.integers(61, 4000)), st.integers(1, 60)),
    max_size=5,
)


def assert_no_future(view: FeatureView, panel: Panel, cut: int, *, seed: int = 0) -> None:
    """Raises AssertionError that names the features that a change of the future changes."""
    violations = check_no_future(view, panel, cut, seed=seed)
    assert not violations, "\n".join(map(str, violations))


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    listed_rows=st.sampled_from((4200, 3000, 1400, 100)),
    holes=stretches,
    still=stretches,
    back=st.one_of(st.integers(1, 100), st.integers(101, 3500)),
)
def test_the_future_changes_no_feature(make_market, seed, listed_rows, holes, still, back) -> None:
    panel = make_market(seed=seed, listed_rows=listed_rows, holes=holes, still=still)
    # The fullest view holds every feature: the law of one path proves it.
    assert_no_future(FULLEST, panel, len(panel) - back, seed=seed)


# What the check must catch.


def sample_score(inputs: Inputs) -> FloatArray:
    return (inputs.log_close - np.nanmean(inputs.log_close, axis=0)) / np.nanstd(inputs.log_close, axis=0)


def centred_average(inputs: Inputs) -> FloatArray:
    return np.roll(rolling_mean(inputs.close, 5), -2, axis=0)


def next_return(inputs: Inputs) -> FloatArray:
    return np.roll(inputs.log_return, -1, axis=0)


def filled_backward(inputs: Inputs) -> FloatArray:
    """The close of the next bar, where a bar is missing two rows earlier."""
    closes = inputs.panel.close
    bridged = np.where(np.isnan(closes), np.roll(closes, -3, axis=0), closes)
    return rolling_mean(bridged, 12)


def rate_of_the_next_bar(inputs: Inputs) -> FloatArray:
    return np.roll(inputs.extra("funding_rate"), -1, axis=0)


@pytest.mark.parametrize(
    "formula",
    [sample_score, centred_average, next_return, filled_backward],
    ids=lambda formula: formula.__name__,
)
def test_a_feature_that_sees_the_future_is_caught(
    make_market, formula: Callable[[Inputs], FloatArray]
) -> None:
    panel = make_market(holes=[(1, 102, 2)])
    planted = Feature(formula.__name__, "planted", "any", "planted fault", ("close",), 12, formula)
    honest = VIEWS[0].features
    [violation] = check_no_future(FeatureView("planted", (*honest, planted)), panel, len(panel) - 99)
    assert violation.feature == formula.__name__
    with pytest.raises(AssertionError, match=f"{formula.__name__} breaks the law of no future"):
        assert_no_future(FeatureView("planted", (*honest, planted)), panel, len(panel) - 99)


def test_a_side_series_that_shows_too_early_is_caught(make_market) -> None:
    early = Feature("early", "planted", "any", "planted fault", ("funding_rate",), 1, rate_of_the_next_bar)
    panel = make_market()
    [violation] = check_no_future(FeatureView("planted", (early,)), panel, len(panel) - 99)
    assert violation.feature == "early"


def whether_it_is_ever_told(inputs: Inputs) -> FloatArray:
    """One where the floor is known at any time, now or later."""
    known = np.isfinite(inputs.extra("nft_floor")).any(axis=0)
    return np.broadcast_to(known.astype(np.float64), inputs.panel.close.shape)


def test_a_feature_that_sees_a_source_come_on_later_is_caught(make_market) -> None:
    """The source is off in the whole panel: cutting the future off changes nothing, another future does."""
    told = Feature("told", "planted", "any", "planted fault", ("nft_floor",), 1, whether_it_is_ever_told)
    panel = make_market()
    panel = replace(panel, extra={name: of for name, of in panel.extra.items() if name != "nft_floor"})
    [violation] = check_no_future(FeatureView("planted", (told,)), panel, len(panel) - 99)
    assert (violation.feature, violation.detail.split(" after ")[0]) == ("told", "another future")


def test_another_future_tells_something_else_in_every_side_series(make_market) -> None:
    panel = make_market()
    cut = len(panel) - 99
    still = replace(panel, extra={**panel.extra, "funding_rate": np.zeros(panel.close.shape)})
    other = another_future(still, cut, 0, ("nft_floor", "news_sentiment"))
    assert {"funding_rate", "nft_floor", "news_sentiment"} <= set(other.extra)
    for name, series in other.extra.items():
        before = still.extra.get(name, np.full(panel.close.shape, np.nan))
        np.testing.assert_array_equal(series[:cut], before[:cut])
        # Missing in another place, or another number: nowhere the same.
        later, told = before[cut:], series[cut:]
        assert not (later == told).any()
        assert np.isfinite(told).any()
        assert np.isnan(told).any()
