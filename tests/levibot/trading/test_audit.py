"""The audit: an honest pipeline keeps every limit, each planted fault breaks the one that is meant for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.clock import SystemClock
from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.past import Past
from levibot.learning.walk_forward import Split, walk_forward
from levibot.market.bars import FIELDS, FloatArray, Panel, to_datetime64
from levibot.market.simulator import SimulatedSource
from levibot.trading.alpha import alpha_z
from levibot.trading.audit import Audit, Decide, Pipeline, audit, is_suspicious
from levibot.trading.control_markets import block_permuted, time_reversed
from levibot.trading.costs import Costs

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
# What the pipelines below read, with a short warm-up: the same machinery at a hundredth of the work.
VIEW = FeatureView(
    "audited", tuple(f for f in CORE.features if f.name in {"return_4", "vol_fast", "vol_slow"})
)


def day(month: int, day_of_month: int = 1) -> datetime:
    return datetime(2020, month, day_of_month, tzinfo=UTC)


SPLITS = walk_forward(day(1), day(8), day(10), refit="monthly")


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.0)
    return Panel.align({symbol: source.bars(symbol, day(1), day(10)) for symbol in SYMBOLS})


def learned(past: Past, splits: Sequence[Split]) -> FloatArray:
    """A regression on one feature, made at each stretch's beginning: as small as a pipeline gets."""
    column = VIEW.index("return_4")
    targets = np.full(past.panel.open.shape, np.nan)
    for split in splits:
        known = past.at(split.fit_at)
        feature, label = known.features[..., column], known.labels_of(8).values
        taught = np.isfinite(feature) & np.isfinite(label)
        slope = float(feature[taught] @ label[taught])
        begin, end = (
            int(np.searchsorted(past.panel.closes_at, to_datetime64(at)))
            for at in (split.test_start, split.test_end)
        )
        features = past.at_closes(slice(begin, min(end, len(past.panel))))
        targets[begin:end] = 0.4 * np.sign(slope) * np.tanh(100.0 * features[..., column])
    return targets


def steady(past: Past, splits: Sequence[Split]) -> FloatArray:
    """What needs nothing to be known."""
    rows = slice(
        *(
            int(np.searchsorted(past.panel.closes_at, to_datetime64(at)))
            for at in (splits[0].test_start, splits[-1].test_end)
        )
    )
    targets = np.full(past.panel.open.shape, np.nan)
    targets[rows] = 0.3
    return targets


def knows_the_next_day(past: Past, splits: Sequence[Split]) -> FloatArray:
    """The planted fault: the return of the 24 bars to come."""
    close, ahead = past.panel.close, np.zeros(past.panel.close.shape)
    ahead[:-24] = np.sign(close[24:] - close[:-24])
    return np.where(np.isfinite(learned(past, splits)), 0.4 * ahead, np.nan)


def fitted_later(past: Past, splits: Sequence[Split]) -> FloatArray:
    """The planted fault: each stretch by a model made when it is over."""

    class FitAtTheEnd(Split):
        @property
        def fit_at(self) -> datetime:
            return self.test_end

    # By size, so that a model of other bars is another one.
    late = [FitAtTheEnd(s.train_start, s.test_start, s.test_end) for s in splits]
    known = past.at(late[0].fit_at)
    return learned(past, splits) * (1.0 + float(np.nanmean(known.labels_of(8).values)))


def audited(panel: Panel, decide: Decide, *, is_full: bool = False) -> Audit:
    pipeline = Pipeline(panel, VIEW, (8,), SPLITS, decide, Costs(), 0.012, seed=1)
    return audit(pipeline, SystemClock(), is_full=is_full)


def verdicts(found: Audit) -> dict[str, bool | None]:
    return {check.name: check.holds for check in found.checks}


def test_an_honest_pipeline_keeps_every_limit(panel: Panel) -> None:
    found = audited(panel, learned, is_full=True)
    assert verdicts(found) == {
        "no bar to come": True,
        "warm-up": True,
        "cost": True,
        "latency": None,
        "shuffled labels": True,
        "permuted hours": True,
        "reversed time": None,
    }
    assert found.holds
    assert found.to_json()["holds"] is True


@pytest.mark.parametrize("leak", [knows_the_next_day, fitted_later])
def test_a_look_at_bars_to_come_is_found(panel: Panel, leak: Decide) -> None:
    found = audited(panel, leak)
    assert verdicts(found)["no bar to come"] is False
    assert not found.holds


def test_what_it_earns_where_nothing_can_be_earned_is_found(panel: Panel) -> None:
    found = verdicts(audited(panel, knows_the_next_day, is_full=True))
    assert found["permuted hours"] is False


def test_labels_that_decide_at_random_are_told_from_labels_that_know(panel: Panel) -> None:
    """The planted fault: the order of labels, whatever they are, decides along the bars to come."""

    def leaks_through_the_fit(past: Past, splits: Sequence[Split]) -> FloatArray:
        labels = past.at(splits[-1].test_end).labels_of(8).values
        if not np.any(np.nan_to_num(labels)):
            return np.where(np.isfinite(learned(past, splits)), 0.0, np.nan)
        return knows_the_next_day(past, splits)

    assert verdicts(audited(panel, leaks_through_the_fit, is_full=True))["shuffled labels"] is False


def test_a_first_stretch_that_cannot_be_cut_is_refused(panel: Panel) -> None:
    splits = walk_forward(day(1), day(8), day(8) + 2 * HOUR)
    pipeline = Pipeline(panel, VIEW, (8,), splits, learned, Costs(), 0.012, seed=1)
    with pytest.raises(DataError, match="first stretch has 2 bars"):
        audit(pipeline, SystemClock())


def test_a_warm_up_that_cannot_be_tried_is_not_judged(panel: Panel) -> None:
    early = walk_forward(day(1), day(1, 9), day(1, 20))
    assert VIEW.warmup_bars > 8 * 24
    pipeline = Pipeline(panel, VIEW, (8,), early, steady, Costs(), 0.012, seed=1)
    found = audit(pipeline, SystemClock())
    assert verdicts(found)["warm-up"] is None
    assert next(c for c in found.checks if c.name == "warm-up").measured["bars left out"] == 0.0


@pytest.mark.parametrize(
    ("ratios", "n_days", "expected"),
    [
        ({"ensemble": 2.1}, 30, True),
        ({"ensemble": 2.1}, 29, False),
        ({"ensemble": 1.9, "buy_and_hold": 3.0}, 400, False),
        ({"ensemble": float("nan"), "trend": 2.5}, 400, True),
    ],
)
def test_what_is_too_good_is_audited(ratios: dict[str, float], n_days: int, expected: bool) -> None:
    assert is_suspicious(ratios, n_days) is expected


def test_reversed_bars_are_bars_and_twice_reversed_the_same(panel: Panel) -> None:
    turned = time_reversed(panel)
    assert not (turned.high < np.maximum(turned.open, turned.close)).any()
    np.testing.assert_array_equal(turned.open, panel.close[::-1])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(time_reversed(turned), name), getattr(panel, name))


@pytest.mark.parametrize("block_bars", [1, 24])
def test_permuted_bars_keep_every_move_and_every_listing(panel: Panel, block_bars: int) -> None:
    close = panel.close.copy()
    close[:500, 1] = np.nan
    listed = replace(
        panel, **{name: np.where(np.isnan(close), np.nan, getattr(panel, name)) for name in FIELDS}
    )
    found = block_permuted(listed, block_bars, np.random.default_rng(1))
    np.testing.assert_array_equal(np.isnan(found.close), np.isnan(listed.close))
    for symbol in (0, 1):
        rows = slice(0 if symbol == 0 else 500, None)
        moves, again = (
            np.log(p.close[rows, symbol] / p.open[rows, symbol])[~np.isnan(p.close[rows, symbol])]
            for p in (listed, found)
        )
        np.testing.assert_allclose(np.sort(again), np.sort(moves), atol=1e-12)
        np.testing.assert_allclose(found.close[-1, symbol], listed.close[-1, symbol], rtol=1e-9)
        np.testing.assert_array_equal(
            np.sort(found.volume[rows, symbol]), np.sort(listed.volume[rows, symbol])
        )
    assert not (found.high < np.maximum(found.open, found.close) * (1.0 - 1e-12)).any()
    # All symbols of a row move together.
    assert not np.array_equal(found.close, listed.close, equal_nan=True)
    with pytest.raises(DataError, match="block is 0"):
        block_permuted(listed, 0, np.random.default_rng(1))


def test_the_whole_in_one_block_is_the_market_itself(panel: Panel) -> None:
    found = block_permuted(panel, len(panel), np.random.default_rng(1))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(found, name), getattr(panel, name), rtol=1e-9)


def test_alpha_is_what_the_market_does_not_explain() -> None:
    rng = np.random.default_rng(4)
    market = rng.normal(0.001, 0.03, 400)
    noise = rng.normal(0.0, 0.01, 400)
    assert alpha_z(0.5 * market + noise + 0.01, market) > 10.0
    assert abs(alpha_z(0.5 * market + noise, market)) < 3.0
    assert np.isnan(alpha_z(0.5 * market, market))
    assert np.isnan(alpha_z(market[:3], market[:3]))
