"""How far days hang together: long-run variance, and the block length that a bootstrap needs for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray

MIN_DAYS = 10


@dataclass(frozen=True, slots=True)
class Dependence:
    """What a series' own past says of its mean.

    variance: of one value. long_run_variance: what n times the variance of the mean tends to, >= 0.
    stationary_block: mean block of the stationary bootstrap, circular_block: of the circular one; both in
    values, >= 1, not rounded.
    """

    variance: float
    long_run_variance: float
    stationary_block: float
    circular_block: float

    @property
    def inflation(self) -> float:
        """How many values weigh as much as one independent one, >= 1.

        Values that swing back would weigh more than independent ones: that is not counted in their favour.
        """
        return max(1.0, self.long_run_variance / self.variance) if self.variance > 0.0 else 1.0


def dependence(values: FloatArray) -> Dependence:
    """Politis & White 2004 with the correction of Patton, Politis & White 2009; flat-top window.

    values: (T,). Fewer than 10, or values that do not vary, are taken as independent: a block of 1.
    Raises DataError on a value that is not finite.
    """
    if not np.isfinite(values).all():
        raise DataError("A series with values that are not finite has no dependence to measure.")
    n = len(values)
    centred = values - values.mean() if n else values
    variance = float(centred @ centred) / n if n else 0.0
    if n < MIN_DAYS or variance <= (1e-12 * float(np.max(np.abs(values), initial=0.0))) ** 2:
        return Dependence(variance, variance, 1.0, 1.0)
    n_quiet = max(5, int(np.log10(n)))
    furthest = min(int(np.ceil(np.sqrt(n))) + n_quiet, n - 2)
    lags = range(furthest + 1)
    covariance = np.array([centred[k:] @ centred[: n - k] for k in lags]) / n
    # Scaled by what a lag leaves at either end, as the authors' own code does.
    reached = np.concatenate(([0.0], np.cumsum(centred**2)))
    steps = np.array(lags)
    scale = np.sqrt((reached[n] - reached[steps + 1]) * reached[n - steps - 1])
    correlation = np.abs(covariance * n) / np.where(scale > 0.0, scale, np.inf)
    is_quiet = correlation < 2.0 * np.sqrt(np.log10(n) / n)
    first = next((k for k in range(furthest - n_quiet + 1) if is_quiet[k : k + n_quiet].all()), None)
    width = furthest if first is None else min(2 * max(first, 1), furthest)
    k = np.arange(1, width + 1)
    window = np.where(k / width <= 0.5, 1.0, 2.0 * (1.0 - k / width)) * covariance[1 : width + 1]
    long_run = float(covariance[0] + 2.0 * window.sum())
    slope = float(2.0 * (k * window).sum())
    longest = float(np.ceil(min(3.0 * np.sqrt(n), n / 3.0)))

    def block(weight: float) -> float:
        if long_run == 0.0:
            return longest
        best = (2.0 * slope**2 / (weight * long_run**2)) ** (1.0 / 3.0) * n ** (1.0 / 3.0)
        return float(np.clip(best, 1.0, longest))

    return Dependence(variance, max(0.0, long_run), block(2.0), block(4.0 / 3.0))
