"""Drift: silent while the market stays what it was, loud when a feature does not."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray, Panel
from levibot.monitoring.distribution import Distribution
from levibot.monitoring.drift import FeatureDrift, drift_of, shadow_loss
from levibot.monitoring.reference import MEASURES, MIN_DAYS, DriftReference
from levibot.trading.costs import NO_COSTS, Costs

DAY = 24
HALF = 0.5


def test_a_market_that_does_not_drift_alarms_on_at_most_one_feature_day_in_a_hundred(
    reference: DriftReference, later_days: list[FloatArray]
) -> None:
    alarms = np.array([[bool(drift.beyond) for drift in drift_of(reference, day)] for day in later_days])
    assert alarms.size > 30_000
    assert alarms.mean() <= 0.01
    assert alarms.mean(axis=0).max() <= 0.015, dict(zip(CORE.names, alarms.mean(axis=0), strict=True))


def test_nor_does_it_for_who_looks_every_hour(
    reference: DriftReference, still_features: FloatArray, later_days: list[FloatArray]
) -> None:
    first = len(still_features) - DAY * len(later_days)
    seen = [
        np.any(
            [
                [bool(drift.beyond) for drift in drift_of(reference, still_features[end - 2 * DAY : end])]
                for end in range(day, day + DAY)
            ],
            axis=0,
        )
        # Every twelfth day, for the sake of time: 52 days of all features.
        for day in range(first + DAY, len(still_features) - DAY, 12 * DAY)
    ]
    assert len(seen) > 50
    assert np.mean(seen) <= 0.01


@pytest.mark.parametrize("shift", [HALF, -HALF])
def test_a_shift_of_half_a_standard_deviation_is_found_within_a_day(
    reference: DriftReference, later_days: list[FloatArray], shift: float
) -> None:
    found = np.zeros(len(CORE.names))
    days = later_days[::60]
    for day in days:
        for column in range(len(CORE.names)):
            shifted = day.copy()
            shifted[DAY:, :, column] += shift * reference.sd[column]
            found[column] += bool(drift_of(reference, shifted)[column].beyond)
    found /= len(days)
    assert found.min() >= 0.8, dict(zip(CORE.names, found, strict=True))
    assert np.mean(found > 0.9) >= 0.95
    assert found.mean() >= 0.98


def test_a_shift_that_began_within_the_day_is_found(
    reference: DriftReference, later_days: list[FloatArray]
) -> None:
    day, names = later_days[100], ("sma_gap_24", "vol_168", "volume_ratio_24_672")
    for column in map(CORE.index, names):
        shifted = day.copy()
        shifted[DAY + 13 :, :, column] += HALF * reference.sd[column]
        assert "own_jump" in drift_of(reference, shifted)[column].beyond


def test_a_value_that_training_has_not_is_drift_of_a_feature_with_few(
    reference: DriftReference, later_days: list[FloatArray]
) -> None:
    few = dict(zip(CORE.names, reference.known.few, strict=True))
    assert {name for name, is_few in few.items() if is_few} == {
        "breadth_168",
        "hour_sin",
        "hour_cos",
        "weekend",
    }
    column = CORE.index("weekend")
    slightly = later_days[0].copy()
    slightly[:, :, column] += 0.01
    assert drift_of(reference, later_days[0])[column].found["unseen"] == 0.0
    drift = drift_of(reference, slightly)[column]
    assert drift.found["unseen"] == 1.0
    assert "unseen" in drift.beyond


def test_the_shifted_feature_is_the_one_that_is_named(
    reference: DriftReference, still_features: FloatArray
) -> None:
    day = still_features[-2 * DAY :].copy()
    column = CORE.index("return_4")
    day[DAY:, :, column] += 3.0 * reference.sd[column]
    assert max(drift_of(reference, day), key=lambda drift: drift.excess).name == "return_4"


def test_a_reference_comes_back_from_its_bytes(reference: DriftReference, still_features: FloatArray) -> None:
    again = DriftReference.from_bytes(reference.to_bytes())
    assert (again.names, again.rows_a_day, again.n_days) == (CORE.names, DAY, reference.n_days)
    np.testing.assert_array_equal(again.limits, reference.limits)
    day = still_features[-2 * DAY :]
    np.testing.assert_array_equal(again.measure(day), reference.measure(day))


@pytest.mark.parametrize("data", [b"", b"PK", b"{}", pickle.dumps({"names": []})])
def test_what_is_no_reference_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="no reference of features"):
        DriftReference.from_bytes(data)


def test_a_reference_of_other_shapes_is_refused(reference: DriftReference) -> None:
    with pytest.raises(DataError, match="limits has shape"):
        DriftReference.from_bytes(replace(reference, limits=reference.limits[:2]).to_bytes())


def test_a_short_history_makes_no_reference(still_features: FloatArray) -> None:
    with pytest.raises(DataError, match=f"{MIN_DAYS} are needed"):
        DriftReference.fit(still_features[:3000], CORE.names, DAY)


def test_too_few_rows_and_other_features_are_refused(
    reference: DriftReference, still_features: FloatArray
) -> None:
    with pytest.raises(DataError, match="at least 48 rows"):
        drift_of(reference, still_features[-47:])
    with pytest.raises(DataError, match="of 54 features"):
        drift_of(reference, still_features[-48:, :, 1:])


def test_a_feature_without_values_is_not_drift(reference: DriftReference, still_features: FloatArray) -> None:
    day = still_features[-2 * DAY :].copy()
    column = CORE.index("return_4")
    day[:, :, column] = np.nan
    gone = drift_of(reference, day)[column]
    assert np.isnan(list(gone.found.values())).all()
    assert (gone.beyond, gone.excess) == ((), 0.0)
    assert json.loads(json.dumps(gone.to_json(), allow_nan=False))["found"]["psi"] is None


def test_a_drift_says_what_is_beyond_and_by_how_much() -> None:
    limits = dict.fromkeys(MEASURES, 2.0)
    drift = FeatureDrift("x", dict(zip(MEASURES, (1.0, 3.0, 2.0, 4.0), strict=True)), limits)
    assert drift.beyond == ("unseen", "own_jump")
    assert (drift.psi, drift.excess) == (1.0, 1.0)


def test_the_psi_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(1)
    learned, seen = rng.normal(size=(5000, 1)), rng.normal(0.5, 1.2, size=(1, 400, 1))
    edges = np.quantile(learned[:, 0], np.arange(1, 10) / 10)
    expected = (np.histogram(learned, [-np.inf, *edges, np.inf])[0] + 0.5) / 5005.0
    found = (np.histogram(seen, [-np.inf, *edges, np.inf])[0] + 0.5) / 405.0
    psi = float(np.sum((found - expected) * np.log(found / expected)))
    assert Distribution.of(learned).psi(seen[0][:, None], 400, 1)[0, 0] == pytest.approx(psi)
    assert Distribution.of(learned).psi(learned[:, None], len(learned), 1)[0, 0] == pytest.approx(
        0.0, abs=1e-9
    )


def test_the_shadow_loss_is_the_accounts(
    model: SignalModel, still_market: Panel, still_features: FloatArray
) -> None:
    rows = DAY + model.window_bars
    panel, features = still_market.tail(rows), still_features[-rows:]
    free = shadow_loss(model, panel, features, DAY, NO_COSTS)
    dear = shadow_loss(model, panel, features, DAY, Costs(100.0, 0.0))
    assert dear.loss > free.loss
    held = np.log(panel.close[-1] / panel.close[-DAY - 1])
    # In equal weight, rebalanced: close to the mean of the four.
    assert free.holding_loss == pytest.approx(-held.mean(), abs=0.01)
    assert free.squared_error is not None
    assert free.error_of_zero is not None
    assert free.squared_error == pytest.approx(free.error_of_zero, rel=0.5)
    json.dumps(free.to_json(), allow_nan=False)
