from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.calibration import Platt, fit_platt


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
