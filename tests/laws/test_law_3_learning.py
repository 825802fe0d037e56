"""Law 3 where models learn: nothing that becomes known later changes a label, a model or a day's return."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.labels import forward_returns
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.signal import SignalModel
from levibot.learning.training import SIGNAL, TrainingParameters, train
from levibot.learning.walk_forward import BoolArray, purged_folds, usable_rows, walk_forward
from levibot.market.bars import FIELDS, FloatArray, Panel, TimeArray, to_datetime64
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.report import run_backtest
from tests.trial_books import new_book

HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
FIT_AT = datetime(2020, 6, 1, tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SOURCE = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.03)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=10), n_models=1, n_folds=2)


@pytest.fixture(scope="module")
def panel() -> Panel:
    end = datetime(2020, 8, 1, tzinfo=UTC)
    return Panel.align({symbol: SOURCE.bars(symbol, START, end) for symbol in SYMBOLS})


@pytest.fixture(scope="module")
def vol_slow(panel: Panel) -> FloatArray:
    return np.full(panel.open.shape, 0.8)


@pytest.mark.parametrize("horizon_bars", [1, 8, 24])
@pytest.mark.parametrize("cut", [30, 1_000, 2_500])
def test_a_label_is_there_when_it_says_and_never_changes(
    panel: Panel, vol_slow: FloatArray, horizon_bars: int, cut: int
) -> None:
    whole = forward_returns(panel, vol_slow, horizon_bars)
    early = forward_returns(panel.rows(slice(0, cut)), vol_slow[:cut], horizon_bars)
    known = whole.available_at[:cut] <= panel.closes_at[cut - 1]
    np.testing.assert_array_equal(early.values[known], whole.values[:cut][known])
    assert np.isnan(early.values[~known]).all()
    assert np.isnat(early.available_at[~known]).all()


def last_bar_read(ts: TimeArray, rows: BoolArray, horizon_bars: int) -> np.datetime64:
    """Close of the latest bar behind the labels of some rows: entry one bar later, exit `horizon_bars` on."""
    return np.datetime64(ts[np.flatnonzero(rows).max() + 1 + horizon_bars] + np.timedelta64(HOUR))


@pytest.mark.parametrize("horizon_bars", [1, 8, 24])
def test_no_label_of_a_teaching_row_reaches_the_test(
    panel: Panel, vol_slow: FloatArray, horizon_bars: int
) -> None:
    labels = forward_returns(panel, vol_slow, horizon_bars)
    embargo = 24 * HOUR
    for split in walk_forward(START, FIT_AT, datetime(2020, 7, 20, tzinfo=UTC), refit="monthly"):
        rows = usable_rows(panel.ts, labels.available_at, start=START, fit_at=split.fit_at, embargo=embargo)
        assert last_bar_read(panel.ts, rows, horizon_bars) <= to_datetime64(split.fit_at - embargo)


def test_labels_without_a_purge_would_be_caught(panel: Panel) -> None:
    """The planted fault: labels that claim to be known when the decision is taken."""
    rows = usable_rows(panel.ts, panel.closes_at, start=START, fit_at=FIT_AT, embargo=timedelta(0))
    assert last_bar_read(panel.ts, rows, 24) > to_datetime64(FIT_AT)


def shortest_distance(teach: BoolArray, judge: BoolArray, reach_bars: int) -> int:
    """Bars between what teaching and judged rows read, negative where they overlap. No row is missing."""
    taught, judged = np.flatnonzero(teach), np.flatnonzero(judge)
    before, after = taught[taught < judged.min()], taught[taught > judged.max()]
    gaps = [judged.min() - (before.max() + reach_bars) if len(before) else len(teach)]
    gaps.append(after.min() - (judged.max() + reach_bars) if len(after) else len(teach))
    return int(min(gaps))


def hourly(n_rows: int) -> TimeArray:
    return np.datetime64("2020-01-01", "us") + np.arange(n_rows) * np.timedelta64(HOUR)


def test_folds_keep_the_embargo_on_both_sides() -> None:
    ts, reach = hourly(1_000), 25
    available_at = ts + (reach + 1) * np.timedelta64(HOUR)
    usable = np.arange(1_000) < 900
    folds = purged_folds(ts, available_at, usable, n_folds=4, embargo=24 * HOUR)
    assert sum(judge.sum() for _, judge in folds) == 900
    for teach, judge in folds:
        assert shortest_distance(teach, judge, reach) >= 24
        assert not (teach & ~usable).any()


def test_folds_without_a_purge_would_be_caught() -> None:
    ts = hourly(1_000)
    for teach, judge in purged_folds(ts, ts, np.ones(1_000, np.bool_), n_folds=4, embargo=timedelta(0)):
        assert shortest_distance(teach, judge, reach_bars=25) < 0


def closest(teach: BoolArray, judge: BoolArray, first_read: FloatArray, last_read: FloatArray) -> float:
    """Hours between what a teaching label and a judged label read, at the closest; negative: they overlap."""
    after = first_read[teach][:, None] - last_read[judge][None, :]
    before = first_read[judge][None, :] - last_read[teach][:, None]
    return float(np.maximum(after, before).min())


def barrier_reach(n_rows: int) -> tuple[TimeArray, TimeArray, FloatArray, FloatArray]:
    """Rows whose labels reach from 2 to 40 bars ahead, as those of barriers do; with hours of both ends."""
    ts = hourly(n_rows)
    reach = np.random.default_rng(4).integers(2, 41, n_rows)
    hours = np.arange(n_rows, dtype=np.float64)
    return ts, ts + reach * np.timedelta64(HOUR), hours, hours + reach


@pytest.mark.parametrize(("n_judged", "n_splits"), [(1, 6), (2, 15), (3, 20)])
def test_combined_folds_keep_the_embargo_from_every_judged_block(n_judged: int, n_splits: int) -> None:
    ts, available_at, first_read, last_read = barrier_reach(900)
    usable = np.arange(900) >= 60
    folds = purged_folds(ts, available_at, usable, n_folds=6, embargo=24 * HOUR, n_judged=n_judged)
    assert len(folds) == n_splits
    # Every row is judged in as many combinations as every other one.
    judged = np.sum([judge for _, judge in folds], axis=0)
    assert set(judged[usable].tolist()) == {n_splits * n_judged // 6}
    assert not judged[~usable].any()
    for teach, judge in folds:
        assert closest(teach, judge, first_read, last_read) >= 24.0


def test_a_label_that_reaches_into_a_judged_block_would_be_caught_unpurged() -> None:
    """The planted fault: labels that claim to end where their row does."""
    ts, _, first_read, last_read = barrier_reach(900)
    for teach, judge in purged_folds(
        ts, ts, np.ones(900, np.bool_), n_folds=6, embargo=timedelta(0), n_judged=2
    ):
        assert closest(teach, judge, first_read, last_read) < 0.0


BARRIERS = replace(QUICK, target="triple_barrier", weighting="uniqueness")


def test_barriers_that_are_not_decided_by_the_fit_teach_nothing(panel: Panel) -> None:
    def made(bars: Panel, training: TrainingParameters) -> dict[str, bytes]:
        known = ComputedPast(bars, CORE, SIGNAL.horizons_bars).at(FIT_AT)
        return train(known, seed=1, train_start=START, training=training).to_files()

    kept = made(panel, BARRIERS)
    assert made(rewritten_after(panel, FIT_AT - 24 * HOUR), BARRIERS) == kept
    assert made(rewritten_after(panel, FIT_AT - 20 * 24 * HOUR), BARRIERS) != kept
    # Both are other models than the default's: the parameters are heard.
    assert made(panel, QUICK) != kept != made(panel, replace(BARRIERS, weighting="equal"))


def fitted(panel: Panel, view: FeatureView = CORE) -> dict[str, bytes]:
    known = ComputedPast(panel, view, SIGNAL.horizons_bars).at(FIT_AT)
    model: SignalModel = train(known, seed=1, train_start=START, training=QUICK)
    return model.to_files() | {"data_hash": model.data_hash.encode()}


def rewritten_after(panel: Panel, instant: datetime) -> Panel:
    """The same bars up to an instant, and another market after it."""
    later = panel.closes_at > to_datetime64(instant)
    fields = {
        name: np.where(later[:, None], 2.0 * getattr(panel, name), getattr(panel, name)) for name in FIELDS
    }
    return Panel(panel.symbols, panel.interval, panel.ts, **fields)


def test_what_happens_after_the_fit_does_not_change_the_model(panel: Panel) -> None:
    assert fitted(panel) == fitted(rewritten_after(panel, FIT_AT))


def test_a_change_before_the_fit_changes_the_model(panel: Panel) -> None:
    assert fitted(panel) != fitted(rewritten_after(panel, FIT_AT - timedelta(days=20)))


def return_of_the_next_day(inputs: Inputs) -> FloatArray:
    """What no feature may know."""
    out = np.full_like(inputs.log_close, np.nan)
    out[:-24] = inputs.log_close[24:] - inputs.log_close[:-24]
    return out


LEAK = Feature(
    name="return_of_the_next_day",
    family="returns",
    unit="log return",
    source="planted",
    inputs=("close",),
    window_bars=1,
    formula=return_of_the_next_day,
)


def daily_returns_until(test_end: datetime, folder: Path, view: FeatureView = CORE) -> FloatArray:
    report = run_backtest(
        SOURCE,
        SYMBOLS,
        train_start=START,
        test_start=FIT_AT,
        test_end=test_end,
        seed=1,
        trials=new_book(),
        histories=FrozenHistories(folder, say=pytest.fail),
        refit="monthly",
        view=view,
        training=QUICK,
    )
    return report.ensemble.daily_returns


def differs(view: FeatureView, folder: Path) -> bool:
    """Whether a day's reported return depends on bars that came after it."""
    early = daily_returns_until(datetime(2020, 7, 15, tzinfo=UTC), folder, view)
    later = daily_returns_until(datetime(2020, 8, 15, tzinfo=UTC), folder, view)
    return not np.array_equal(early, later[: len(early)])


def test_a_longer_history_does_not_change_the_days_already_reported(tmp_path: Path) -> None:
    assert not differs(CORE, tmp_path)


def test_a_feature_that_sees_the_future_would_be_caught(tmp_path: Path) -> None:
    assert differs(FeatureView("leaky", (*CORE.features, LEAK)), tmp_path)
