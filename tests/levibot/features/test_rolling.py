"""The window primitives against loops that read as their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.features import rolling


def series(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 2))


@given(seed=st.integers(0, 1000), rows=st.integers(0, 40), window=st.integers(1, 50))
@pytest.mark.parametrize(
    ("primitive", "reference"),
    [
        (rolling.rolling_sum, np.sum),
        (rolling.rolling_mean, np.mean),
        (rolling.rolling_max, np.max),
        (rolling.rolling_min, np.min),
    ],
    ids=["sum", "mean", "max", "min"],
)
def test_a_window_holds_the_last_rows_and_no_others(primitive, reference, seed, rows, window) -> None:
    x = series(seed, rows)
    expected = np.full_like(x, np.nan)
    for row in range(window - 1, rows):
        expected[row] = reference(x[row - window + 1 : row + 1], axis=0)
    np.testing.assert_allclose(primitive(x, window), expected, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 1000), window=st.integers(1, 12), decay=st.floats(0.3, 1.0))
def test_a_decayed_sum_weighs_by_age(seed, window, decay) -> None:
    x = series(seed, 30)
    expected = np.full_like(x, np.nan)
    for row in range(window - 1, 30):
        expected[row] = sum(decay**age * x[row - age] for age in range(window))
    np.testing.assert_allclose(rolling.decayed_sum(x, decay, window), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("primitive", [rolling.rolling_sum, rolling.rolling_max, rolling.rolling_min])
def test_a_hole_spoils_the_windows_that_hold_it_and_no_others(primitive) -> None:
    x = series(1, 30)
    x[10, 0] = np.nan
    expected = np.zeros((30, 2), dtype=bool)
    expected[:3] = True
    expected[10:14, 0] = True
    np.testing.assert_array_equal(np.isnan(primitive(x, 4)), expected)


def test_a_giant_leaves_no_trace_after_its_window() -> None:
    x = np.full((50, 1), 1e-6)
    x[10] = 1e12
    np.testing.assert_allclose(rolling.rolling_sum(x, 5)[15:], 5e-6, rtol=1e-12)


def test_an_exponential_mean_forgets_what_is_older_than_its_window() -> None:
    x = np.ones((40, 1))
    x[:20] = 1000.0
    mean = rolling.ewm_mean(x, half_life_bars=3.0, window_bars=9, min_bars=1)
    assert mean[27, 0] > 1.0
    assert mean[28, 0] == pytest.approx(1.0)


def test_an_exponential_mean_weighs_a_row_half_as_much_as_the_row_one_half_life_later() -> None:
    x = np.array([[3.0], [0.0], [6.0]])
    mean = rolling.ewm_mean(x, half_life_bars=1.0, window_bars=3, min_bars=1)
    assert mean[2, 0] == pytest.approx((6.0 + 0.5 * 0.0 + 0.25 * 3.0) / 1.75)


def test_an_exponential_mean_gives_missing_rows_no_weight() -> None:
    x = np.array([[2.0], [np.nan], [5.0]])
    mean = rolling.ewm_mean(x, half_life_bars=1.0, window_bars=3, min_bars=2)
    assert np.isnan(mean[1, 0])
    assert mean[2, 0] == pytest.approx((5.0 + 0.25 * 2.0) / 1.25)


def test_a_close_is_carried_over_the_limit_and_not_farther() -> None:
    x = np.array([[np.nan], [7.0], [np.nan], [np.nan], [np.nan], [8.0]])
    carried = rolling.carry_forward(x, 2)[:, 0]
    np.testing.assert_array_equal(carried, [np.nan, 7.0, 7.0, 7.0, np.nan, 8.0])


@pytest.mark.parametrize("denominator", [0.0, -1.0, np.nan, 1e-300])
def test_a_ratio_over_nothing_is_unknown_and_never_infinite(denominator) -> None:
    assert np.isnan(rolling.ratio(np.array([[1e20]]), np.array([[denominator]]))).all()


def test_the_log_of_no_volume_is_unknown() -> None:
    assert np.isnan(rolling.log_ratio(np.array([[0.0]]), np.array([[1.0]]))).all()


def test_a_mean_over_symbols_counts_what_is_there() -> None:
    x = np.array([[1.0, 3.0, 50.0], [1.0, np.nan, 50.0], [1.0, 2.0, 3.0]])
    counted = np.array([[True, True, False], [True, True, False], [False, False, False]])
    np.testing.assert_array_equal(rolling.cross_mean(x, counted)[:, 0], [2.0, 1.0, np.nan])


def test_a_lag_longer_than_the_panel_is_all_unknown() -> None:
    assert np.isnan(rolling.lag(series(0, 3), 5)).all()


@given(exponent=st.integers(-600, 600), seed=st.integers(0, 1000))
def test_a_logarithm_is_exact_to_its_last_place(exponent, seed) -> None:
    x = np.random.default_rng(seed).uniform(0.5, 2.0, (700, 2)) * 2.0**exponent
    expected = np.log(x)
    assert (np.abs(rolling.log(x) - expected) <= np.spacing(np.abs(expected))).all()


def test_a_logarithm_of_what_has_none_is_unknown() -> None:
    x = np.array([[0.0, -1.0, np.nan, np.inf, 1e-201, 1.0]])
    np.testing.assert_array_equal(rolling.log(x), [[np.nan] * 5 + [0.0]])


def test_a_change_is_the_value_less_an_older_one() -> None:
    x = series(0, 6)
    np.testing.assert_array_equal(rolling.change(x, 2), x - rolling.lag(x, 2))
    assert np.isnan(rolling.change(x, 9)).all()


def test_a_scaled_change_is_a_change_over_its_scale() -> None:
    x, scale = series(0, 9), np.abs(series(1, 9))
    scale[4, 0], scale[5, 1] = 0.0, np.nan
    expected = rolling.ratio(rolling.change(x, 2), scale * 1.5)
    np.testing.assert_array_equal(rolling.scaled_change(x, scale, 1.5, 2), expected)
    assert np.isnan(rolling.scaled_change(x, scale, 1.5, 20)).all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_window_is_the_same_in_any_layout(order) -> None:
    x = series(3, 40)
    laid_out = np.asarray(x, order=order)
    laid_out.flags.writeable = False
    np.testing.assert_array_equal(rolling.rolling_max(laid_out, 7), rolling.rolling_max(x, 7))
    np.testing.assert_array_equal(
        rolling.rolling_sum(laid_out[::-1], 7), rolling.rolling_sum(x[::-1].copy(), 7)
    )
