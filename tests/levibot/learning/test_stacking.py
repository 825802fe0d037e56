from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.stacking import Stacking, StackingParameters, fit_stacking
from levibot.market.bars import BoolArray, FloatArray

MEMBERS = ("trend", "strength", "lightgbm")
FREE = StackingParameters(ridge=0.0, only_agreeing=False)


def outcomes(coefficients: list[float], n: int = 20_000, seed: int = 0) -> tuple[FloatArray, BoolArray]:
    rng = np.random.default_rng(seed)
    opinions = rng.uniform(-1.0, 1.0, (n, 3))
    return opinions, rng.random(n) < 1.0 / (1.0 + np.exp(-(opinions @ coefficients + 0.2)))


def halves(n: int) -> list[tuple[BoolArray, BoolArray]]:
    first = np.arange(n) < n // 2
    return [(first, ~first), (~first, first)]


def test_planted_coefficients_are_found_and_calibrated() -> None:
    opinions, happened = outcomes([1.0, 0.5, 0.0])
    fitted = fit_stacking(MEMBERS, opinions, happened, folds=halves(len(happened)), parameters=FREE)
    np.testing.assert_allclose(fitted.coefficients, [1.0, 0.5, 0.0], atol=0.1)
    assert fitted.intercept == pytest.approx(0.2, abs=0.05)
    assert fitted.gain > 0.02
    assert fitted.error < 0.02


def test_a_member_that_is_wrong_is_ignored_and_not_turned_around() -> None:
    opinions, happened = outcomes([1.0, -0.8, 0.3])
    fitted = fit_stacking(MEMBERS, opinions, happened)
    assert fitted.coefficients[1] == 0.0
    assert (fitted.coefficients[[0, 2]] > 0.0).all()
    turned = fit_stacking(MEMBERS, opinions, happened, parameters=FREE)
    assert turned.coefficients[1] < -0.6


def test_a_larger_penalty_believes_less_and_nothing_to_find_gains_nothing() -> None:
    opinions, happened = outcomes([1.0, 0.5, 0.2])
    sizes = [
        float(np.abs(fit_stacking(MEMBERS, opinions, happened, parameters=p).coefficients).sum())
        for p in (StackingParameters(ridge=r) for r in (0.0, 0.1, 1.0))
    ]
    assert sizes == sorted(sizes, reverse=True)
    opinions, happened = outcomes([0.0, 0.0, 0.0])
    assert abs(fit_stacking(MEMBERS, opinions, happened, folds=halves(len(happened))).gain) < 1e-3


def test_a_missing_opinion_adds_nothing_and_none_is_no_probability() -> None:
    fitted = Stacking(MEMBERS, np.array([1.0, 1.0, 1.0]), 0.0, 300, float("nan"), float("nan"))
    told = fitted.probability(np.array([[0.5, np.nan, np.nan], [np.nan] * 3]))
    assert told[0] == pytest.approx(1.0 / (1.0 + np.exp(-0.5)))
    assert np.isnan(told[1])


@pytest.mark.parametrize("up", [True, False])
def test_outcomes_of_one_class_and_a_silent_member_stay_finite(up: bool) -> None:
    opinions = np.column_stack([outcomes([0, 0, 0], 500)[0][:, :2], np.zeros(500)])
    fitted = fit_stacking(MEMBERS, opinions, np.full(500, up))
    assert np.isfinite([*fitted.coefficients, fitted.intercept]).all()
    assert (fitted.probability(opinions) > 0.5).all() == up


def test_few_rows_or_other_shapes_are_refused() -> None:
    opinions, happened = outcomes([0, 0, 0], 300)
    with pytest.raises(DataError, match="200 are needed"):
        fit_stacking(MEMBERS, opinions[:100], happened[:100])
    with pytest.raises(DataError, match="none infinite"):
        fit_stacking(MEMBERS[:2], opinions, happened)
