"""The compiled windows against the same figure taken from each window alone, holes included."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from levibot.features.rolling_extremes import (
    are_flat,
    bars_since_max,
    bars_since_min,
    rolling_drawdown,
    rolling_rank,
    stands,
)
from levibot.features.rolling_moments import rolling_line, rolling_shape, rolling_spread
from levibot.features.rolling_pairs import rolling_ratio, rolling_regression
from levibot.features.rolling_patterns import permutation_entropy, run_length, sign_entropy
from levibot.market.bars import FloatArray

ROWS = 400
WINDOWS = (3, 24, 71)

OfWindow = Callable[[FloatArray], float]


def by_window(x: FloatArray, rows: int, figure: OfWindow) -> FloatArray:
    """`figure` of each full window without NaN, and NaN elsewhere."""
    out = np.full_like(x, np.nan)
    for symbol in range(x.shape[1]):
        for end in range(rows, len(x) + 1):
            window = x[end - rows : end, symbol]
            if not np.isnan(window).any():
                out[end - 1, symbol] = figure(window)
    return out


@pytest.fixture(scope="module")
def level() -> FloatArray:
    """Three walks at a level that is large beside their steps: a hole, a standstill, a late start."""
    rng = np.random.default_rng(5)
    x = 1e4 + np.cumsum(rng.normal(0.0, 0.01, (ROWS, 3)), axis=0)
    x[100:103, 0] = np.nan
    x[200:290, 1] = x[199, 1]
    x[:150, 2] = np.nan
    return x


@pytest.fixture(scope="module")
def steps(level: FloatArray) -> FloatArray:
    out = np.full_like(level, np.nan)
    out[1:] = np.diff(level, axis=0)
    return out


def deviation(window: FloatArray) -> float:
    """Taken about the first value: numpy's own rounding is 1e-12 at this level."""
    return float(np.std(window - window[0]))


def moves(window: FloatArray) -> bool:
    return bool(np.ptp(window) > 0.0)


@pytest.mark.parametrize("bars", WINDOWS)
def test_mean_and_deviation_of_a_window(level, bars) -> None:
    spread = rolling_spread(level, bars)
    np.testing.assert_allclose(spread.mean, by_window(level, bars, np.mean), rtol=1e-12)
    np.testing.assert_allclose(spread.deviation, by_window(level, bars, deviation), rtol=1e-6)


@pytest.mark.parametrize("bars", [24, 71])
def test_skewness_and_kurtosis_of_a_window(level, bars) -> None:
    shape = rolling_shape(level, bars)
    skewness = by_window(level, bars, lambda w: stats.skew(w) if moves(w) else np.nan)
    kurtosis = by_window(level, bars, lambda w: stats.kurtosis(w) if moves(w) else np.nan)
    np.testing.assert_allclose(shape.skewness, skewness, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(shape.kurtosis, kurtosis, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bars", WINDOWS)
def test_the_line_of_a_window_is_the_least_squares_one(level, bars) -> None:
    line = rolling_line(level, bars)
    time = np.arange(bars) - (bars - 1) / 2

    def slope(window: FloatArray) -> float:
        return float(time @ (window - window[0]) / (time @ time))

    def r_squared(window: FloatArray) -> float:
        return np.corrcoef(time, window - window[0])[0, 1] ** 2 if moves(window) else np.nan

    def gap(window: FloatArray) -> float:
        return float(window[-1] - (window[0] + np.mean(window - window[0]) + slope(window) * time[-1]))

    def score(window: FloatArray) -> float:
        return (
            (window[-1] - window[0] - np.mean(window - window[0])) / deviation(window)
            if moves(window)
            else np.nan
        )

    np.testing.assert_allclose(line.slope, by_window(level, bars, slope), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(line.r_squared, by_window(level, bars, r_squared), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(line.gap, by_window(level, bars, gap), rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(line.score, by_window(level, bars, score), rtol=1e-6, atol=1e-7)


def test_a_window_without_change_has_a_deviation_of_exactly_zero(level) -> None:
    assert (rolling_spread(level, 24).deviation[230:290, 1] == 0.0).all()
    assert (rolling_line(level, 24).slope[230:290, 1] == 0.0).all()
    assert np.isnan(rolling_line(level, 24).score[230:290, 1]).all()


@pytest.mark.parametrize("bars", WINDOWS)
def test_a_ratio_of_sums(steps, bars) -> None:
    moved = np.abs(steps)
    total = by_window(moved, bars, np.sum)
    expected = np.divide(
        by_window(steps, bars, np.sum), total, out=np.full_like(total, np.nan), where=total > 0
    )
    np.testing.assert_allclose(rolling_ratio(steps, moved, bars), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bars", [24, 71])
def test_a_regression_is_that_of_the_window(steps, bars) -> None:
    x = np.ascontiguousarray(np.broadcast_to(steps[:, :1], steps.shape))
    fit = rolling_regression(x, steps, bars)
    for row, symbol in [(99, 0), (99, 1), (250, 1), (399, 1), (399, 2)]:
        window = slice(row - bars + 1, row + 1)
        if np.isnan(x[window, symbol]).any() or np.isnan(steps[window, symbol]).any():
            assert np.isnan(fit.slope[row, symbol])
            continue
        centred = np.column_stack([np.ones(bars), x[window, symbol]])
        coefficients, *_ = np.linalg.lstsq(centred, steps[window, symbol], rcond=None)
        residual = steps[window, symbol] - centred @ coefficients
        assert fit.slope[row, symbol] == pytest.approx(coefficients[1], rel=1e-8, abs=1e-12)
        assert fit.residual[row, symbol] == pytest.approx(residual.std(), rel=1e-6, abs=1e-12)
        if moves(steps[window, symbol]):
            correlation = np.corrcoef(x[window, symbol], steps[window, symbol])[0, 1]
            assert fit.correlation[row, symbol] == pytest.approx(correlation, rel=1e-8)
        else:
            assert np.isnan(fit.correlation[row, symbol])


def test_a_series_explains_itself_and_leaves_nothing(steps) -> None:
    fit = rolling_regression(steps, steps, 24)
    known = ~np.isnan(fit.slope)
    assert known.any()
    assert (fit.slope[known] == 1.0).all()
    assert (fit.correlation[known] == 1.0).all()
    assert (fit.residual[known] == 0.0).all()


@pytest.mark.parametrize("bars", WINDOWS)
def test_the_newest_of_equal_extremes_counts(level, bars) -> None:
    highest = by_window(level, bars, lambda w: float(np.argmax(w[::-1])))
    lowest = by_window(level, bars, lambda w: float(np.argmin(w[::-1])))
    np.testing.assert_array_equal(bars_since_max(level, bars), highest)
    np.testing.assert_array_equal(bars_since_min(level, bars), lowest)


@pytest.mark.parametrize("bars", WINDOWS)
def test_the_deepest_fall_of_a_window(level, bars) -> None:
    def fall(window: FloatArray) -> float:
        return float(np.max(np.maximum.accumulate(window) - window))

    np.testing.assert_array_equal(rolling_drawdown(level, bars), by_window(level, bars, fall))


@pytest.mark.parametrize(("values", "stride"), [(24, 1), (24, 7)])
def test_a_rank_counts_what_lies_below_and_half_of_what_is_equal(level, values, stride) -> None:
    actual = rolling_rank(level, values, stride)
    for row in range(ROWS):
        for symbol in range(3):
            older = [row - stride * (i + 1) for i in range(values)]
            compared = level[[row, *older], symbol] if older[-1] >= 0 else np.array([np.nan])
            if np.isnan(compared).any():
                assert np.isnan(actual[row, symbol])
            else:
                below = (compared[1:] < compared[0]).sum() + 0.5 * (compared[1:] == compared[0]).sum()
                assert actual[row, symbol] == below / values


def test_a_price_stands_after_as_many_equal_steps(level) -> None:
    standing = stands(level, 10)
    assert not standing[:209, 1].any()
    assert standing[209:290, 1].all()
    assert not standing[290:].any()
    assert not standing[:, 0].any()


def test_bars_are_flat_when_high_and_low_are_one_price(level) -> None:
    flat = are_flat(level, level, 10)
    # Ten rows of one price, where a price that stands needs one more to stand still from.
    np.testing.assert_array_equal(flat, stands(level, 9) & ~np.isnan(level))
    higher = level.copy()
    higher[250, 1] *= 1.001
    np.testing.assert_array_equal(are_flat(higher, level, 10)[250:260, 1], False)
    assert are_flat(higher, level, 10)[[249, 260], 1].all()
    assert are_flat(level, level, 1)[~np.isnan(level)].all()


def entropy(counts: list[int], kinds: int) -> float:
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts if c) / math.log(kinds)


def test_permutation_entropy_counts_the_orders_of_three(level) -> None:
    def expected(window: FloatArray) -> float:
        orders = [tuple(np.argsort(window[i : i + 3], kind="stable")) for i in range(len(window) - 2)]
        return entropy([orders.count(order) for order in set(orders)], 6)

    actual = permutation_entropy(level, 60)
    np.testing.assert_allclose(actual, by_window(level, 62, expected), rtol=1e-12, atol=1e-12)


def test_sign_entropy_counts_the_words_of_three(steps) -> None:
    def expected(window: FloatArray) -> float:
        words = [tuple(window[i : i + 3] > 0) for i in range(len(window) - 2)]
        return entropy([words.count(word) for word in set(words)], 8)

    actual = sign_entropy(steps, 60)
    np.testing.assert_allclose(actual, by_window(steps, 62, expected), rtol=1e-12, atol=1e-12)


def test_a_series_that_only_rises_has_no_entropy() -> None:
    rising = np.arange(100.0)[:, None]
    assert permutation_entropy(rising, 60)[-1, 0] == 0.0


def test_a_run_is_counted_to_its_limit_and_signed(steps) -> None:
    def expected(window: FloatArray) -> float:
        length = 0
        for before in reversed(np.sign(window)):
            if before != np.sign(window[-1]):
                break
            length += 1
        return float(np.sign(window[-1]) * length)

    np.testing.assert_array_equal(run_length(steps, 5), by_window(steps, 5, expected))


WINDOWED: list[tuple[str, Callable[[FloatArray], FloatArray], int]] = [
    ("deviation", lambda x: rolling_spread(x, 71).deviation, 71),
    ("skewness", lambda x: rolling_shape(x, 71).skewness, 71),
    ("line", lambda x: rolling_line(x, 71).r_squared, 71),
    ("ratio", lambda x: rolling_ratio(x, x, 71), 71),
    ("regression", lambda x: rolling_regression(x, np.square(x - 1e4), 71).slope, 71),
    ("since max", lambda x: bars_since_max(x, 71), 71),
    ("drawdown", lambda x: rolling_drawdown(x, 71), 71),
    ("rank", lambda x: rolling_rank(x, 10, 7), 71),
    ("permutation entropy", lambda x: permutation_entropy(x, 69), 71),
    ("run", lambda x: run_length(x - 1e4, 71), 71),
]


@pytest.mark.parametrize(("name", "figure", "rows"), WINDOWED, ids=[case[0] for case in WINDOWED])
def test_a_window_knows_nothing_of_what_came_before_it(level, name, figure, rows) -> None:
    whole = figure(level)
    violent = level.copy()
    violent[: ROWS - rows] *= 1e8
    assert figure(violent)[-1, 1] == whole[-1, 1]
    for start in (1, 37, ROWS - rows):
        np.testing.assert_allclose(figure(level[start:])[-1], whole[-1], rtol=1e-9, err_msg=name)
