"""Trials that compete for one claim: how many they are, and how many they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

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
    differently; the largest budget stands for the smaller ones of the same configuration. n_effective: how
    many independent ones the distinct ones are worth, >= 1. sharpe_variance: across them, of ratios of one
    day.
    """

    n_trials: int
    n_distinct: int
    n_effective: float
    sharpe_variance: float


ALONE = Family(1, 1, 1.0, 0.0)


def family_of(trials: Sequence[Trial]) -> Family:
    """Count and weigh trials. Kinds that nothing was chosen from, and failed ones, are left out.

    Worth: that of `independent_ways` for those with daily returns, and 1 each for those of which only the
    ratio is known; what these share with others narrows `sharpe_variance`, which is all that can be said.
    One without a ratio, such as a flat account, is no candidate for the best and is worth nothing.
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
    rated = [trial for trial in outcomes.values() if trial.net_sharpe is not None]
    if len(rated) < 2:
        return Family(len(counted), len(outcomes), 1.0, 0.0)
    ratios = np.array([trial.net_sharpe for trial in rated], dtype=np.float64) / np.sqrt(DAYS_PER_YEAR)
    known = [trial for trial in rated if trial.daily_returns is not None]
    ways = independent_ways(known) if known else 0.0
    worth = ways + (len(rated) - len(known))
    return Family(len(counted), len(outcomes), worth, float(ratios.var(ddof=1)))


def same_days(trials: Sequence[Trial], start: datetime, n_days: int) -> FloatArray:
    """(n_days, N) daily returns of the trials that were scored on just these days, each outcome once.

    Kinds that nothing was chosen from, failed ones, and those of which only the ratio is known are left out.
    """
    outcomes = {
        pack_returns(trial.daily_returns): trial.daily_returns
        for trial in trials
        if trial.kind in CHOSEN_FROM
        and trial.status != "failed"
        and trial.daily_returns is not None
        and (trial.start, trial.n_days) == (start, n_days)
    }
    return np.column_stack(list(outcomes.values())) if outcomes else np.empty((n_days, 0))


def independent_ways(trials: Sequence[Trial]) -> float:
    """In how many independent ways trials with daily returns differ from each other, plus one; in [1, M].

    The participation ratio 1 + (sum of eigenvalues)^2 / (sum of their squares) of the covariance of the
    standardised returns less each day's mean over the trials, the squares without what noise adds to them.
    M independent trials are worth M, and so are M that share a market: what all share moves the best of them
    as it moves the rest, and `sharpe_variance` is of what they do not share. K groups of equals are worth K.
    A pair that shares fewer than 20 days counts as one that has nothing in common.
    """
    if len(trials) < 2:
        return float(len(trials))
    first_days = np.array([np.datetime64(t.start.astimezone(UTC).replace(tzinfo=None), "D") for t in trials])
    offsets = (first_days - first_days.min()).astype(np.int64)
    width = max(int(at) + t.n_days for at, t in zip(offsets, trials, strict=True))
    own = np.zeros((len(trials), width), dtype=np.float32)
    there = np.zeros((len(trials), width), dtype=np.float32)
    for row, at, trial in zip(range(len(trials)), offsets, trials, strict=True):
        days = slice(int(at), int(at) + trial.n_days)
        own[row, days] = _standardised(trial.daily_returns)
        there[row, days] = 1.0
    own = (own - own.sum(axis=0) / np.maximum(there.sum(axis=0), 1.0)) * there
    variances = (own**2).sum(axis=1) / np.maximum(there.sum(axis=1), 1.0)
    squares = float((variances**2).sum())
    for begin in range(0, len(trials), _ROWS_AT_ONCE):
        rows = slice(begin, begin + _ROWS_AT_ONCE)
        shared = there[rows] @ there.T
        covariance = (own[rows] @ own.T) / np.maximum(shared, 1.0)
        noise = variances[rows, None] * variances / np.maximum(shared, 1.0)
        beyond = np.where(shared >= MIN_SHARED_DAYS, covariance**2 - noise, 0.0)
        squares += float(beyond.sum(dtype=np.float64) - np.diagonal(beyond, offset=begin).sum())
    total = float(variances.sum(dtype=np.float64))
    # Rounding is all that is left of trials that do not differ.
    if total <= 1e-6 * len(trials):
        return 1.0
    largest = float(len(trials))
    return largest if squares <= 0.0 else float(np.clip(1.0 + total**2 / squares, 1.0, largest))


def _standardised(returns: FloatArray | None) -> FloatArray:
    assert returns is not None
    deviation = returns.std() if len(returns) else 0.0
    # Equal returns leave a deviation of rounding only.
    if deviation <= 1e-7 * np.max(np.abs(returns), initial=0.0):
        return np.zeros_like(returns)
    return np.asarray((returns - returns.mean()) / deviation)
