"""Weights that would have had the best Sharpe ratio, believed as far as the evidence goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import nnls

from levibot.errors import DataError
from levibot.learning.members import checked_weights
from levibot.market.bars import FloatArray, TimeArray, to_datetime64

# Fewer days than this say nothing of a member.
MIN_DAYS = 90


@dataclass(frozen=True)
class Voting:
    """Fixed weights of a weighted vote.

    weights: (M,) on the simplex, share * optimal + (1 - share) * prior. optimal: (M,) of the days they were
    found on. share: in [0, 1]. days: those on which every judged member had a return.
    """

    members: tuple[str, ...]
    weights: FloatArray
    optimal: FloatArray
    share: float
    days: int

    def to_json(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "weights": self.weights.tolist(),
            "optimal": self.optimal.tolist(),
            "share": self.share,
            "days": self.days,
        }


def sharpe_weights(members: Sequence[str], returns: FloatArray, prior: FloatArray) -> Voting:
    """Weights on the simplex with the best Sharpe ratio of past days, shrunk to the prior.

    returns: (D, M) net daily returns of each member alone, finished days only; NaN = missing. prior: (M,).
    The covariance is that of Ledoit & Wolf 2004, on returns of unit variance. How far its optimum is believed
    is a positive-part James-Stein share: fitting one more weight raises the squared daily Sharpe ratio of D
    days by 1 / D in the mean where there is nothing to find, and a fit on the simplex has as many free
    weights as it leaves above zero (Meyer & Woodroofe 2000), so that much of the gain is luck:

        share = max(0, 1 - (max(1, weights above zero - 1) / D) / (best Sharpe^2 - prior's Sharpe^2))

    A member with fewer than 90 days, or whose return never varies, keeps its prior weight. Nothing is
    drawn at random. Raises DataError on other shapes or infinite returns.
    """
    prior = checked_weights(prior, len(members))
    if returns.ndim != 2 or returns.shape[1] != len(members) or np.isinf(returns).any():
        raise DataError(f"Returns of shape {returns.shape} must be (days, {len(members)}), none infinite.")
    unchanged = Voting(tuple(members), prior, prior, 0.0, 0)
    judged = np.array([_tells(returns[:, m]) for m in range(len(members))])
    if judged.sum() < 2 or prior[judged].sum() == 0.0:
        return unchanged
    rows = returns[:, judged]
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < MIN_DAYS or not (rows.std(axis=0) > 0.0).all():
        return unchanged
    deviation = rows.std(axis=0)
    ratio, correlation = rows.mean(axis=0) / deviation, _shrunk_correlation(rows / deviation)
    held = prior[judged] / prior[judged].sum()
    best = _best(ratio, correlation) / deviation
    if best.sum() <= 0.0:
        return Voting(tuple(members), prior, prior, 0.0, len(rows))
    best = best / best.sum()
    gain = _squared(best * deviation, ratio, correlation) - _squared(held * deviation, ratio, correlation)
    luck = max(1, int((best > 1e-9).sum()) - 1) / len(rows)
    share = 1.0 - luck / gain if gain > luck else 0.0
    optimal, weights = prior.copy(), prior.copy()
    optimal[judged] = best * prior[judged].sum()
    weights[judged] = (share * best + (1.0 - share) * held) * prior[judged].sum()
    return Voting(tuple(members), weights / weights.sum(), optimal / optimal.sum(), share, len(rows))


def votes_over(
    members: Sequence[str],
    day: TimeArray,
    returns: FloatArray,
    fits: Sequence[datetime],
    prior: FloatArray,
) -> tuple[FloatArray, tuple[Voting, ...]]:
    """Weights (D, M) that are voted anew at every fit, on the days that were over by then; and the votes.

    day: (D,) datetime64[D], none missing. returns: (D, M) net, of each member alone. The prior is held until
    there are days enough. Raises DataError as `sharpe_weights`.
    """
    held = np.tile(checked_weights(prior, len(members)), (len(day), 1))
    votes = []
    edges = [*(to_datetime64(at).astype("datetime64[D]") for at in fits), day[-1] + np.timedelta64(1, "D")]
    for begin, end in pairwise(edges):
        vote = sharpe_weights(members, returns[day < begin], prior)
        held[(day >= begin) & (day < end)] = vote.weights
        votes.append(vote)
    return held, tuple(votes)


def _tells(returns: FloatArray) -> bool:
    known = returns[np.isfinite(returns)]
    return len(known) >= MIN_DAYS and float(known.std()) > 1e-12 * float(np.abs(known).max())


def _shrunk_correlation(scaled: FloatArray) -> FloatArray:
    """Ledoit & Wolf 2004, towards the identity, of (D, k) returns with unit variance."""
    centred = scaled - scaled.mean(axis=0)
    n_days, k = centred.shape
    sample = centred.T @ centred / n_days
    distance = float(np.square(sample - np.eye(k)).sum())
    noise = float(np.square(centred[:, :, None] * centred[:, None, :] - sample).sum()) / n_days**2
    share = min(1.0, noise / distance) if distance > 0.0 else 1.0
    shrunk: FloatArray = (1.0 - share) * sample + share * np.eye(k)
    # Members that are copies of each other leave a singular matrix; so little changes nothing else.
    return shrunk + 1e-6 * np.eye(k)


def _best(ratio: FloatArray, correlation: FloatArray) -> FloatArray:
    """(k,) >= 0: exposures, in units of each deviation, of the best Sharpe ratio; zero where none is above 0.

    The maximum of ratio'y - y'Cy/2 over y >= 0 points there: a least-squares problem in the Cholesky factor.
    """
    factor = np.linalg.cholesky(correlation)
    found, _ = nnls(factor.T, np.linalg.solve(factor, ratio))
    exposures: FloatArray = np.asarray(found, dtype=np.float64)
    return exposures


def _squared(exposure: FloatArray, ratio: FloatArray, correlation: FloatArray) -> float:
    """Squared daily Sharpe ratio, with the sign of the mean."""
    mean = float(exposure @ ratio)
    return mean * abs(mean) / float(exposure @ correlation @ exposure)
