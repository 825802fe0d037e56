"""What returns remember: autocorrelation, variance ratios, Hurst's exponent, entropy."""

from __future__ import annotations

import math

import numpy as np

from levibot.features.bar_series import return_sign
from levibot.features.inputs import Inputs
from levibot.features.rolling import change, lag, log, ratio, rolling_mean
from levibot.features.rolling_pairs import rolling_ratio
from levibot.features.rolling_patterns import permutation_entropy, sign_entropy
from levibot.features.windows import over, over_pairs
from levibot.market.bars import FloatArray

# Scales of the Hurst exponent, evenly spaced in logs.
HURST_SCALES = (1, 3, 9, 27)


def autocorrelation(inputs: Inputs, lag_bars: int, bars: int) -> FloatArray:
    """Sum of products of returns `lag_bars` apart over half the sum of both squares: −1 to 1.

    No mean is taken off: that of hourly returns is nothing beside their deviation.
    """

    def products() -> FloatArray:
        return inputs.log_return * lag(inputs.log_return, lag_bars)

    def squares() -> FloatArray:
        return 0.5 * (inputs.squared_return + lag(inputs.squared_return, lag_bars))

    return rolling_ratio(
        inputs.shared(("return_products", lag_bars), products),
        inputs.shared(("squares_of_both", lag_bars), squares),
        bars,
    )


def sign_persistence(inputs: Inputs, bars: int) -> FloatArray:
    """Bars that go on less bars that turn, as a share of both: −1 to 1."""

    def pairs() -> FloatArray:
        side = return_sign(inputs)
        return side * lag(side, 1)

    same = inputs.shared("sign_pairs", pairs)
    return rolling_ratio(same, np.abs(same), bars)


def variance_ratio(inputs: Inputs, scale_bars: int, bars: int) -> FloatArray:
    """Variance of moves over `scale_bars` rows over `scale_bars` times that of one: 1 for a random walk."""

    def squares() -> FloatArray:
        return np.square(change(inputs.log_close, scale_bars))

    moved = inputs.shared(("squared_moves", scale_bars), squares)
    return rolling_ratio(moved, inputs.squared_return, bars) * (1.0 / scale_bars)


def hurst(inputs: Inputs, bars: int) -> FloatArray:
    """Slope of log mean |move over q rows| on log q, for q of HURST_SCALES: 0.5 for a random walk.

    NaN where nothing moved.
    """
    sizes = [rolling_mean(_absolute_move(inputs, scale), bars) for scale in HURST_SCALES]
    # The least-squares slope through four evenly spaced points weighs their logs −3, −1, 1, 3: one logarithm.
    outer = ratio(sizes[3], sizes[0])
    return log(outer * outer * outer * ratio(sizes[2], sizes[1])) * (1.0 / (10.0 * math.log(HURST_SCALES[1])))


def price_entropy(inputs: Inputs, bars: int) -> FloatArray:
    """Entropy of the orders of three closes that follow one another, 0 (one order) to 1 (all alike)."""
    return permutation_entropy(inputs.close, bars)


def direction_entropy(inputs: Inputs, bars: int) -> FloatArray:
    """Entropy of words of three bars, each up or not, 0 (one word) to 1 (all alike)."""
    return sign_entropy(inputs.log_return, bars)


def _absolute_move(inputs: Inputs, bars: int) -> FloatArray:
    return inputs.shared(("absolute_move", bars), lambda: np.abs(change(inputs.log_close, bars)))


MEMORY = (
    *over_pairs(
        ((1, 24), (1, 168), (2, 168), (6, 168), (24, 168), (24, 672)),
        "memory",
        "autocorrelation",
        autocorrelation,
        parameters=("lag_bars", "bars"),
        rows=lambda lag_bars, bars: bars + lag_bars + 1,
        unit="correlation",
        source="Lo & MacKinlay 1988: autocorrelation of returns",
    ),
    *over(
        (24, 168),
        "memory",
        "sign_persistence",
        sign_persistence,
        unit="share of the pairs",
        source="Cowles & Jones 1937: sequences and reversals",
        more_bars=2,
    ),
    *over_pairs(
        ((2, 72), (4, 168), (8, 168), (24, 672)),
        "memory",
        "variance_ratio",
        variance_ratio,
        parameters=("scale_bars", "bars"),
        rows=lambda scale_bars, bars: bars + scale_bars,
        unit="ratio",
        source="Lo & MacKinlay 1988: variance ratio",
    ),
    *over(
        (168,),
        "memory",
        "hurst",
        hurst,
        unit="exponent",
        source="Di Matteo, Aste & Dacorogna 2005: generalised Hurst exponent of order 1",
        more_bars=HURST_SCALES[-1],
    ),
    *over(
        (168,),
        "memory",
        "price_entropy",
        price_entropy,
        unit="share of the largest entropy",
        source="Bandt & Pompe 2002: permutation entropy",
        more_bars=2,
    ),
    *over(
        (168,),
        "memory",
        "direction_entropy",
        direction_entropy,
        unit="share of the largest entropy",
        source="Shannon 1948: entropy of the signs of returns",
        more_bars=3,
    ),
)
