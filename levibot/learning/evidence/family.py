"""Trials that compete for one claim: how many they are, and how many they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

import numpy as np

from levibot.learning.evidence.trial import CHOSEN_FROM, Trial, pack_returns
from levibot.market.bars import FloatArray
from levibot.trading.metrics import DAYS_PER_YEAR

# Two trials that share fewer days than this are taken to have nothing to do with each other.
MIN_SHARED_DAYS = 20
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Family:
    """What `deflated_sharpe` needs to know of the trials that a result was the best of.

    n_trials: as often as a score was written down. n_distinct: of these, the configurations that came out
    differently; the largest budget stands for the smaller ones of the same configuration. correlation: mean
    over their pairs, 0 or more. n_effective: how many independent ones they are worth, >= 1. sharpe_variance:
    across the distinct ones, of ratios of one day.
    """

    n_trials: int
    n_distinct: int
    correlation: float
    n_effective: float
    sharpe_variance: float


ALONE = Family(1, 1, 0.0, 1.0, 0.0)


def family_of(trials: Sequence[Trial]) -> Family:
    """Count and weigh trials. Kinds that nothing was chosen from, and failed ones, are left out.

    N = r + (1 - r) M (Bailey & López de Prado 2014, appendix 3) for M distinct trials with mean correlation r
    of their daily returns. Where no two of them have returns, r is read off the spread of their ratios: M
    trials without edge whose ratios of T days each err with variance (1 + S^2 / 2) / (T - 1) spread by
    (1 - r) times that. Trials that differ in earnest spread more, so r is 0 then, and N is M: the careful
    side.
    No trials at all: a family of none, worth 1.
    """
    counted = [trial for trial in trials if trial.kind in CHOSEN_FROM and trial.status != "failed"]
    largest: dict[str, Trial] = {}
    for trial in counted:
        other = largest.setdefault(trial.configuration, trial)
        if trial.budget > other.budget:
            largest[trial.configuration] = trial
    # The same outcome twice is no second try, and would narrow the spread of the ratios.
    outcomes: dict[object, Trial] = {}
    for trial in largest.values():
        returns = trial.daily_returns
        outcomes.setdefault(trial.trial_id if returns is None else pack_returns(returns), trial)
    distinct = list(outcomes.values())
    if len(distinct) < 2:
        return Family(len(counted), len(distinct), 0.0, 1.0, 0.0)
    ratios = np.array([t.net_sharpe for t in distinct if t.net_sharpe is not None]) / np.sqrt(DAYS_PER_YEAR)
    variance = float(ratios.var(ddof=1)) if len(ratios) > 1 else 0.0
    known = [trial for trial in distinct if trial.daily_returns is not None]
    if len(known) > 1:
        correlation = mean_correlation(known)
    else:
        correlation = _correlation_of_spread(distinct, ratios, variance)
    worth = correlation + (1.0 - correlation) * len(distinct)
    return Family(len(counted), len(distinct), correlation, worth, variance)


def mean_correlation(trials: Sequence[Trial]) -> float:
    """Mean over all pairs of the correlation of daily returns, on the days that both have; in [0, 1].

    A pair that shares fewer than 20 days, and a trial that does not vary, count as 0. So does a mean below 0.
    All of `trials` have returns, at least two of them.
    """
    first_days = np.array([np.datetime64(t.start.astimezone(UTC).replace(tzinfo=None), "D") for t in trials])
    offsets = (first_days - first_days.min()).astype(np.int64)
    width = max(int(at) + t.n_days for at, t in zip(offsets, trials, strict=True))
    scaled = np.zeros((len(trials), width), dtype=np.float32)
    there = np.zeros((len(trials), width), dtype=np.float32)
    for row, at, trial in zip(range(len(trials)), offsets, trials, strict=True):
        days = slice(int(at), int(at) + trial.n_days)
        scaled[row, days] = _standardised(trial.daily_returns)
        there[row, days] = 1.0
    total = 0.0
    for begin in range(0, len(trials), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        shared = there[rows] @ there.T
        products = np.where(
            shared >= MIN_SHARED_DAYS, (scaled[rows] @ scaled.T) / np.maximum(shared, 1.0), 0.0
        )
        total += float(products.sum(dtype=np.float64))
        total -= float(np.diagonal(products, offset=begin).sum(dtype=np.float64))
    return float(np.clip(total / (len(trials) * (len(trials) - 1)), 0.0, 1.0))


def _standardised(returns: FloatArray | None) -> FloatArray:
    assert returns is not None
    deviation = returns.std() if len(returns) else 0.0
    # Equal returns leave a deviation of rounding only.
    if deviation <= 1e-7 * np.max(np.abs(returns), initial=0.0):
        return np.zeros_like(returns)
    return np.asarray((returns - returns.mean()) / deviation)


def _correlation_of_spread(trials: Sequence[Trial], ratios: FloatArray, variance: float) -> float:
    n_days = [trial.n_days for trial in trials if trial.net_sharpe is not None and trial.n_days > 1]
    if len(ratios) < 2 or not n_days:
        return 0.0
    expected = (1.0 + float(np.mean(ratios**2)) / 2.0) * float(np.mean(1.0 / (np.array(n_days) - 1.0)))
    return float(np.clip(1.0 - variance / expected, 0.0, 1.0))
