"""Law 3 for features: what comes later never changes a value, whether it is cut off or replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levibot.features.engine import compute
from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.rolling import rolling_mean
from levibot.features.view import FeatureView
from levibot.features.views import VIEWS
from levibot.market.bars import FIELDS, FloatArray, Panel

stretches = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 60), st.integers(61, 4000)), st.integers(1, 60)),
    max_size=5,
)


def check_no_future(view: FeatureView, panel: Panel, cut: int, *, seed: int = 0) -> None:
    """The rows before `cut` are bit for bit the same without a future and with another.

    Raises AssertionError that names the features.
    """
    before = compute(view, panel)[:cut]
    futures = {"no future": panel.rows(slice(0, cut)), "another future": another_future(panel, cut, seed)}
    for kind, other in futures.items():
        after = compute(view, other)[:cut]
        same = (after == before) | (np.isnan(after) & np.isnan(before))
        wrong = [name for name, good in zip(view.names, same.all(axis=(0, 1)), strict=True) if not good]
        assert not wrong, f"{kind} after row {cut} changes earlier values of: {wrong}"


def another_future(panel: Panel, cut: int, seed: int) -> Panel:
    """The same bars before `cut`; later ones multiplied by random factors, and some of them missing."""
    rng = np.random.default_rng(seed)
    later = panel.close[cut:].shape
    price, volume = np.exp(rng.normal(0.0, 1.0, later)), np.exp(rng.normal(0.0, 2.0, later))
    missing = rng.random(later) < 0.1
    changed = {}
    for name in FIELDS:
        field = getattr(panel, name).copy()
        field[cut:] = np.where(missing, np.nan, field[cut:] * (volume if name == "volume" else price))
        changed[name] = field
    return replace(panel, **changed)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    listed_rows=st.sampled_from((4200, 3000, 1400, 100)),
    holes=stretches,
    still=stretches,
    back=st.one_of(st.integers(1, 100), st.integers(101, 3500)),
)
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_the_future_changes_no_feature(make_market, view, seed, listed_rows, holes, still, back) -> None:
    panel = make_market(seed=seed, listed_rows=listed_rows, holes=holes, still=still)
    check_no_future(view, panel, len(panel) - back, seed=seed)


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
    with pytest.raises(AssertionError, match=rf"\['{formula.__name__}'\]"):
        check_no_future(FeatureView("planted", (*honest, planted)), panel, len(panel) - 99)
