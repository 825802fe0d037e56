from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.calibration_error import expected_calibration_error


def test_it_is_what_was_said_less_what_happened() -> None:
    probability = np.array([0.2] * 10 + [0.9] * 10)
    happened = np.array([True] * 4 + [False] * 6 + [True] * 9 + [False])
    assert expected_calibration_error(probability, happened, n_bins=2) == pytest.approx(0.1)


def test_true_probabilities_are_calibrated_and_bold_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.4, 0.6, 100_000)
    happened = rng.random(100_000) < probability
    assert expected_calibration_error(probability, happened) < 0.01
    bold = 0.5 + 3.0 * (probability - 0.5)
    assert expected_calibration_error(bold, happened) == pytest.approx(0.1, abs=0.01)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError):
        expected_calibration_error(np.array([]), np.array([], np.bool_))
