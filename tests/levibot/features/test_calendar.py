"""Calendar features are those of the close, in UTC. The small market opens on a Monday at 00:00."""

from __future__ import annotations

import numpy as np
import pytest


def test_the_hour_is_that_of_the_close(core_values) -> None:
    # The bar that opens at 05:00 closes at 06:00, a quarter of the day.
    assert core_values["hour_sin"][5, 0] == pytest.approx(1.0)
    assert core_values["hour_cos"][5, 0] == pytest.approx(0.0, abs=1e-12)
    # The bar that opens at 23:00 closes at midnight.
    assert core_values["hour_cos"][23, 0] == pytest.approx(1.0)


def test_the_weekend_begins_with_the_close_on_saturday_and_ends_with_that_on_monday(core_values) -> None:
    weekend = core_values["weekend"][:168, 0]
    expected = np.zeros(168)
    expected[5 * 24 - 1 : 7 * 24 - 1] = 1.0
    np.testing.assert_array_equal(weekend, expected)
