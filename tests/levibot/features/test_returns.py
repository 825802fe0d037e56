"""Scaled returns against their definition."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize("bars", [1, 2, 4, 8, 12, 24, 48, 72])
def test_a_return_is_counted_in_its_own_standard_deviations(small_market, core_values, sigma, bars) -> None:
    close = small_market.close
    expected = np.log(close[-1] / close[-1 - bars]) / (sigma * np.sqrt(bars))
    np.testing.assert_allclose(core_values[f"return_{bars}"][-1], expected, rtol=1e-9)


def test_there_is_no_scaled_return_before_the_first_56_days(core_values) -> None:
    # 56 days of returns need one close more.
    assert np.isnan(core_values["return_1"][:1344]).all()
    assert np.isfinite(core_values["return_1"][1344:]).all()
