"""Law 3 for the whole walk-forward: what comes after an instant changes no target decided by then.

The bars after an instant are replaced by garbage; from raw bars through features, labels, fits, the size and
the calibration of predictions to the targets, everything decided by that instant must stay bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.features.feature import Feature
from levibot.features.inputs import Inputs
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.members import prior_weights
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.training import SIGNAL, TrainingParameters, train
from levibot.learning.walk_forward import EMBARGO_BARS, Split, walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FIELDS, FloatArray, Panel, to_datetime64
from levibot.market.simulator import SimulatedSource

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2020, 8, 1, tzinfo=UTC)
# Two refits, and the middle of a stretch.
FITS = (datetime(2020, 6, 1, tzinfo=UTC), datetime(2020, 7, 1, tzinfo=UTC))
INSTANTS = (*FITS, datetime(2020, 7, 12, 7, tzinfo=UTC))
QUICK = TrainingParameters(booster=LightGBMParameters(trees=10), n_models=1, n_folds=2)


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.05)
    return Panel.align({symbol: source.bars(symbol, START, END) for symbol in SYMBOLS})


def garbage_after(panel: Panel, instant: datetime, seed: int = 0) -> Panel:
    """The same bars up to an instant; later rows in another order, scaled, and some of them missing."""
    rng = np.random.default_rng(seed)
    first = int(np.searchsorted(panel.closes_at, to_datetime64(instant), side="right"))
    order = first + rng.permutation(len(panel) - first)
    scale = np.exp(rng.normal(0.0, 1.0, (len(order), len(panel.symbols))))
    missing = rng.random(scale.shape) < 0.05
    changed = {}
    for name in FIELDS:
        values = getattr(panel, name).copy()
        values[first:] = np.where(missing, np.nan, values[order] * scale)
        changed[name] = values
    return replace(panel, **changed)


def targets(panel: Panel, splits: Sequence[Split], view: FeatureView = CORE) -> FloatArray:
    past = ComputedPast(panel, view, SIGNAL.horizons_bars)
    opinions = walk_forward_opinions(past, splits, seed=1, training=QUICK)
    return opinions.positions(prior_weights(opinions.members))


def check_no_future(panel: Panel, splits: Sequence[Split], view: FeatureView = CORE) -> None:
    """Raises AssertionError when a target depends on bars that were finished after it was decided."""
    whole = targets(panel, splits, view)
    for instant in INSTANTS:
        decided = panel.closes_at <= to_datetime64(instant)
        again = targets(garbage_after(panel, instant), splits, view)
        assert np.array_equal(again[decided], whole[decided], equal_nan=True), f"changed by {instant}"
        # Otherwise nothing was tried.
        assert not np.array_equal(again[~decided], whole[~decided], equal_nan=True)
    assert np.isfinite(whole[panel.closes_at > to_datetime64(FITS[0])]).any()


SPLITS = walk_forward(START, FITS[0], END, refit="monthly")


def test_no_target_depends_on_what_comes_after_it(panel: Panel) -> None:
    assert tuple(split.fit_at for split in SPLITS) == FITS
    check_no_future(panel, SPLITS)


class FitAtTheEnd(Split):
    """The planted fault: a stretch that is traded by the model made after it."""

    @property
    def fit_at(self) -> datetime:
        return self.test_end


def test_a_model_made_after_its_stretch_would_be_caught(panel: Panel) -> None:
    splits = [FitAtTheEnd(s.train_start, s.test_start, s.test_end) for s in SPLITS]
    with pytest.raises(AssertionError, match="changed by"):
        check_no_future(panel, splits)


def scaled_by_the_sample(inputs: Inputs) -> FloatArray:
    """The planted fault: a volatility taken over all bars, also those to come."""
    return inputs.log_return / np.nanstd(inputs.log_return, axis=0)


def test_a_scaler_fitted_on_all_bars_would_be_caught(panel: Panel) -> None:
    name = "scaled_by_the_sample"
    leak = Feature(name, "planted", "any", "planted fault", ("close",), 2, scaled_by_the_sample)
    with pytest.raises(AssertionError, match="changed by"):
        check_no_future(panel, SPLITS, FeatureView("leaky", (*CORE.features, leak)))


def files_when_garbage_begins(panel: Panel, instant: datetime, embargo_bars: int) -> dict[str, bytes]:
    """Regressors, sizes, label means and calibration of the model made at the first fit."""
    training = replace(QUICK, embargo_bars=embargo_bars)
    changed = garbage_after(panel, instant)
    known = ComputedPast(changed, CORE, SIGNAL.horizons_bars).at(FITS[0])
    model = train(known, seed=1, train_start=START, training=training)
    return model.to_files()


def test_a_model_reads_nothing_within_the_embargo_before_its_fit(panel: Panel) -> None:
    embargoed = FITS[0] - EMBARGO_BARS * HOUR
    kept = files_when_garbage_begins(panel, FITS[0], EMBARGO_BARS)
    assert files_when_garbage_begins(panel, embargoed, EMBARGO_BARS) == kept
    # The last label that may teach ends on the embargo's edge: without its bar the model is another one.
    day_before = embargoed - timedelta(days=1)
    assert files_when_garbage_begins(panel, day_before, EMBARGO_BARS) != kept


def test_a_missing_embargo_would_be_caught(panel: Panel) -> None:
    embargoed = FITS[0] - EMBARGO_BARS * HOUR
    without = files_when_garbage_begins(panel, embargoed, embargo_bars=0)
    assert without != files_when_garbage_begins(panel, FITS[0], embargo_bars=0)
