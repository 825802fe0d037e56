"""Whether one strategy's Sharpe ratio is above another's over the same days."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy.stats import norm

from levibot.errors import DataError
from levibot.learning.evidence.long_run import dependence
from levibot.market.bars import FloatArray
from levibot.trading.metrics import DAYS_PER_YEAR, Interval, sharpe

RESAMPLES = 2_000
# Fewer blocks than this leave no distribution to speak of.
MIN_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class SharpeDifference:
    """Of two annualised Sharpe ratios. NaN throughout where one of them is not defined.

    standard_error: with autocorrelation and heavy tails (HAC). p_hac: two-sided, from the normal.
    p_bootstrap, interval95: from the studentised bootstrap; NaN where the days are fewer than eight blocks.
    """

    difference: float
    standard_error: float
    p_hac: float
    p_bootstrap: float
    interval95: Interval


def sharpe_difference(
    returns: FloatArray, other: FloatArray, *, seed: int, resamples: int = RESAMPLES
) -> SharpeDifference:
    """Sharpe ratio of `returns` less that of `other`, and how sure it is (Ledoit & Wolf 2008).

    returns, other: (T,) simple returns of the same days. Both are drawn together, so what they share cancels.
    The error comes of the delta method with a quadratic-spectral kernel (Andrews 1991); the bootstrap is
    their studentised one of circular blocks, as long as Politis & White ask for of returns and squares.
    The same series twice: a difference of 0 that is no evidence (p = 1).
    Raises DataError on different lengths or a return that is not finite.
    """
    if returns.shape != other.shape:
        raise DataError(f"{len(returns)} days cannot be paired with {len(other)}.")
    pair = np.column_stack([returns, other])
    if not np.isfinite(pair).all():
        raise DataError("Sharpe ratios of returns that are not finite cannot be compared.")
    year = float(np.sqrt(DAYS_PER_YEAR))
    difference = sharpe(returns) - sharpe(other)
    unknown = float("nan")
    if np.isnan(difference):
        return SharpeDifference(unknown, unknown, unknown, unknown, Interval(unknown, unknown))
    if np.array_equal(returns, other):
        return SharpeDifference(0.0, 0.0, 1.0, 1.0, Interval(0.0, 0.0))
    n = len(pair)
    # One unit for both, for the squares' sake: a Sharpe ratio knows no scale.
    pair = pair / pair.std(axis=0)
    moments = np.column_stack([pair, pair**2])
    error = _error(_gradient(moments.mean(axis=0)), _long_run_covariance(moments - moments.mean(axis=0)), n)
    p_hac = 2.0 * float(norm.sf(abs(difference) / year / error)) if error > 0.0 else unknown
    block = ceil(max(dependence(column).circular_block for column in moments.T))
    if error <= 0.0 or n // block < MIN_BLOCKS:
        return SharpeDifference(difference, error * year, p_hac, unknown, Interval(unknown, unknown))
    distances = _studentised(moments, block, resamples, np.random.default_rng(seed))
    p_bootstrap = (1.0 + np.sum(distances >= abs(difference) / year / error)) / (1.0 + len(distances))
    reach = float(np.quantile(distances, 0.95)) * error * year
    return SharpeDifference(
        difference,
        error * year,
        p_hac,
        float(p_bootstrap),
        Interval(difference - reach, difference + reach),
    )


def _gradient(means: FloatArray) -> FloatArray:
    """(…, 4) of the difference of ratios by the means and the means of squares of both; (…, 4) in."""
    first, second, first_square, second_square = np.moveaxis(means, -1, 0)
    out = np.empty_like(means)
    for k, sign, mean, square in ((0, 1.0, first, first_square), (1, -1.0, second, second_square)):
        cube = (square - mean**2) ** 1.5
        out[..., k] = sign * square / cube
        out[..., k + 2] = -sign * mean / (2.0 * cube)
    return out


def _error(gradient: FloatArray, covariance: FloatArray, n: int) -> float:
    return sqrt(max(0.0, float(gradient @ covariance @ gradient) / n))


def _long_run_covariance(centred: FloatArray) -> FloatArray:
    """(4, 4) by the quadratic-spectral kernel, its width from a first autoregression of each column."""
    n = len(centred)
    variance = (centred**2).sum(axis=0)
    phi = np.clip((centred[1:] * centred[:-1]).sum(axis=0) / variance, -0.97, 0.97)
    noise = ((centred[1:] - phi * centred[:-1]) ** 2).mean(axis=0) ** 2
    weight = (noise / (1.0 - phi) ** 4).sum()
    width = 1.3221 * ((4.0 * phi**2 * noise / (1.0 - phi) ** 8).sum() / weight * n) ** 0.2
    total = centred.T @ centred / n
    for lag in range(1, n):
        if width <= 0.0:
            break
        x = 6.0 * np.pi / 5.0 * lag / width
        kernel = 3.0 / x**2 * (np.sin(x) / x - np.cos(x))
        # The envelope of the kernel only falls: what is below this changes no figure.
        if 3.0 / x**2 < 1e-4:
            break
        product = centred[lag:].T @ centred[:-lag] / n
        total = total + kernel * (product + product.T)
    # The correction for the four moments that were fitted.
    return np.asarray(total * (n / (n - 4.0)))


def _studentised(moments: FloatArray, block: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """(resamples,) distances of resampled differences from the measured one, over their own errors.

    Circular blocks; the error in a resample is that of its blocks' means (Götze & Künsch 1996).
    """
    n = len(moments)
    n_blocks = n // block
    wrapped = np.vstack([moments, moments[: block - 1]])
    sums = np.cumsum(np.vstack([np.zeros(moments.shape[1]), wrapped]), axis=0)
    of_blocks = (sums[block:] - sums[:-block]) / block  # (n, 4): the mean of the block that begins there
    drawn = of_blocks[rng.integers(0, n, size=(resamples, n_blocks))]
    means = drawn.mean(axis=1)
    spread = means[:, 2:] - means[:, :2] ** 2
    # A resample of one day over and over has no Sharpe ratio.
    has_ratio = (spread > 0.0).all(axis=1)
    means, spread, drawn = means[has_ratio], spread[has_ratio], drawn[has_ratio]
    ratios = means[:, :2] / np.sqrt(spread)
    whole = moments.mean(axis=0)
    expected = whole[:2] / np.sqrt(whole[2:] - whole[:2] ** 2)
    away = np.abs((ratios[:, 0] - ratios[:, 1]) - (expected[0] - expected[1]))
    influence = np.einsum("rbk,rk->rb", drawn - means[:, None], _gradient(means))
    errors = np.sqrt(influence.var(axis=1) / n_blocks)
    kept = errors > 0.0
    return np.asarray(away[kept] / errors[kept])
