"""How sure a Sharpe ratio is: probabilistic Sharpe ratio and minimum track record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import norm

from levibot.errors import DataError
from levibot.learning.evidence.long_run import dependence
from levibot.market.bars import FloatArray
from levibot.trading.metrics import DAYS_PER_YEAR, sharpe


@dataclass(frozen=True, slots=True)
class SharpeEstimate:
    """A Sharpe ratio of one period (a day, a month), not annualised, and what its error depends on.

    ratio: NaN where it is not defined. n_periods: what it was measured on. skewness, kurtosis: of the
    returns; 0 and 3 for a normal. inflation: how many periods weigh as much as one independent one, >= 1.
    """

    ratio: float
    n_periods: int
    skewness: float = 0.0
    kurtosis: float = 3.0
    inflation: float = 1.0

    @classmethod
    def of(cls, returns: FloatArray) -> Self:
        """The estimate of simple returns (T,), one a day.

        Fewer than two days or no variation: every figure is NaN. Days that hang together count for fewer
        (`Dependence.inflation`); the papers' formulas take them as independent.
        Raises DataError on a return that is not finite.
        """
        if not np.isfinite(returns).all():
            raise DataError("A Sharpe ratio of returns that are not finite says nothing.")
        ratio = sharpe(returns) / float(np.sqrt(DAYS_PER_YEAR))
        if np.isnan(ratio):
            return cls(ratio, len(returns), np.nan, np.nan)
        z = (returns - returns.mean()) / returns.std()
        return cls(
            ratio,
            len(returns),
            float(np.mean(z**3)),
            float(np.mean(z**4)),
            dependence(returns).inflation,
        )

    @property
    def variance_of_one(self) -> float:
        """Variance of the estimate times (n_periods - 1), Mertens 2002; NaN where it is not positive.

        Wide of the mark where losses are rare and large and none fell into the sample: what was not seen is
        in no moment.
        """
        spread = 1.0 - self.skewness * self.ratio + (self.kurtosis - 1.0) / 4.0 * self.ratio**2
        return spread * self.inflation if spread > 0.0 else float("nan")


def probabilistic_sharpe(estimate: SharpeEstimate, benchmark: float = 0.0) -> float:
    """Probability that the true ratio is above `benchmark` (Bailey & López de Prado 2012, eq. 11).

    benchmark: of one period, as the estimate. NaN where the estimate is not defined or has one period.
    """
    if estimate.n_periods < 2:
        return float("nan")
    error = np.sqrt(estimate.variance_of_one / (estimate.n_periods - 1))
    return float(norm.cdf((estimate.ratio - benchmark) / error))


def min_track_record(estimate: SharpeEstimate, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """How many periods it takes until `probabilistic_sharpe` reaches `confidence` (2012, eq. 13).

    Infinite where the ratio is not above the benchmark: no number of such periods would do. NaN where the
    estimate is not defined.
    """
    if np.isnan(estimate.ratio):
        return float("nan")
    if estimate.ratio <= benchmark:
        return float("inf")
    distance = norm.ppf(confidence) / (estimate.ratio - benchmark)
    return 1.0 + estimate.variance_of_one * float(distance) ** 2
