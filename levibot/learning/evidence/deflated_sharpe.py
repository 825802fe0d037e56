"""The Sharpe ratio of a best one, less what the best of so many tries shows without any edge."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from levibot.errors import UsageError
from levibot.learning.evidence.sharpe_estimate import SharpeEstimate, probabilistic_sharpe


def expected_max_sharpe(n_trials: float, variance: float) -> float:
    """What the best of `n_trials` independent ratios without edge is expected to show.

    sqrt(V) ((1 - g) Z(1 - 1/N) + g Z(1 - 1/(N e))) with Euler's g and the normal quantile Z (Bailey & López
    de Prado 2014, eq. 1), never below 0: one try is no choice.
    n_trials: >= 1, may be a fraction. variance: across the trials, of ratios of one period, >= 0.
    Raises UsageError outside these limits.
    """
    if not n_trials >= 1.0 or not 0.0 <= variance < np.inf:
        raise UsageError(f"{n_trials} trials with variance {variance} are none to take a best of.")
    if n_trials == 1.0:
        return 0.0
    usual, far = norm.ppf(1.0 - 1.0 / n_trials), norm.ppf(1.0 - 1.0 / (n_trials * np.e))
    best = (1.0 - np.euler_gamma) * usual + np.euler_gamma * far
    return max(0.0, float(np.sqrt(variance) * best))


def deflated_sharpe(estimate: SharpeEstimate, n_trials: float, variance: float) -> float:
    """Probability that the ratio is above what the best of `n_trials` shows without edge (2014, eq. 2).

    n_trials: effective ones, see `Family`. NaN where the estimate is not defined. Raises UsageError as
    `expected_max_sharpe`.
    """
    return probabilistic_sharpe(estimate, expected_max_sharpe(n_trials, variance))
