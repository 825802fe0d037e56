from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.calibration import Platt, calibration_error, fit_platt


def outcomes(slope: float, intercept: float, n: int = 40_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    score = rng.normal(0.0, 0.1, n)
    return score, rng.random(n) < Platt(slope, intercept).probability(score)


def test_the_slope_and_the_intercept_are_recovered() -> None:
    fitted = fit_platt(*outcomes(slope=5.0, intercept=0.3))
    assert fitted.slope == pytest.approx(5.0, rel=0.05)
    assert fitted.intercept == pytest.approx(0.3, abs=0.03)


def test_scores_that_are_wrong_end_at_the_base_rate() -> None:
    score, happened = outcomes(slope=-5.0, intercept=0.3)
    fitted = fit_platt(score, happened)
    assert fitted.slope == 0.0
    assert fitted.probability(score[:1])[0] == pytest.approx(happened.mean(), abs=1e-3)


def test_one_sided_outcomes_stay_away_from_certainty() -> None:
    fitted = fit_platt(np.zeros(50), np.ones(50, np.bool_))
    assert 0.95 < fitted.probability(np.zeros(1))[0] < 1.0


def test_a_probability_of_nothing_is_nothing() -> None:
    assert np.isnan(Platt(1.0, 0.0).probability(np.array([np.nan]))[0])


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError):
        fit_platt(np.array([]), np.array([], dtype=np.bool_))


def test_the_calibration_error_is_what_was_said_less_what_happened() -> None:
    rng = np.random.default_rng(1)
    said = rng.uniform(0.2, 0.8, 200_000)
    assert calibration_error(said, rng.random(len(said)) < said) < 0.005
    # Said with twice the distance from one half: the error is half the mean distance that was said.
    wrong = 0.5 + (said - 0.5) / 2
    assert calibration_error(said, rng.random(len(said)) < wrong) == pytest.approx(0.075, abs=0.005)
    # Two values, said ten times each: those that are equal share a bin.
    told = np.array([0.2] * 10 + [0.9] * 10)
    came = np.array([True] * 4 + [False] * 6 + [True] * 9 + [False])
    assert calibration_error(told, came) == pytest.approx(0.1)
    assert calibration_error(np.full(100, 0.7), np.arange(100) % 10 < 7) == pytest.approx(0.0)
    with pytest.raises(DataError, match="at least one"):
        calibration_error(np.array([]), np.array([], dtype=np.bool_))
