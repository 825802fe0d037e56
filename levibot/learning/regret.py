"""What choosing weights cost: ways of weighting beside the best they could have been, and not trying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.errors import DataError
from levibot.learning.members import given_to_present
from levibot.learning.router import best_members
from levibot.market.bars import FloatArray
from levibot.trading.metrics import DAYS_PER_YEAR, sharpe

EQUAL_WEIGHT, BEST_FIXED, ORACLE = "equal_weight", "best_fixed", "oracle"


@dataclass(frozen=True, slots=True)
class Regret:
    """One way of weighting. sharpe, annual_return: of its blend of the members' daily net returns.

    regret: by name of the way compared with, its Sharpe ratio less this one's: above 0 where that was better.
    turnover_per_day: share of all weight that moves; what moving it costs is not in the returns.
    """

    sharpe: float
    annual_return: float
    turnover_per_day: float
    regret: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """What is not defined is null."""
        return {
            "sharpe": _number(self.sharpe),
            "annual_return": _number(self.annual_return),
            "turnover_per_day": _number(self.turnover_per_day),
            "regret": {name: _number(value) for name, value in self.regret.items()},
        }


def regrets(
    members: Sequence[str], returns: FloatArray, held: Mapping[str, FloatArray], *, horizon_days: int = 7
) -> dict[str, Regret]:
    """Every way in `held`, and three that need nothing: equal weight, the best fixed member, the oracle.

    returns: (D, M) net daily returns of each member alone; NaN = missing, its weight goes to the others, and
    a day without any member returns 0. held: (D, M) each, the weights held on those days. best_fixed: all
    weight on the member whose Sharpe ratio turned out best. oracle: on each seven days' best member, known
    beforehand: no rule can do it, it is the bound of what routing could bring. Both of these see the future
    and are yardsticks, not strategies.
    Raises DataError on shapes that do not agree, or a name that is taken.
    """
    n_days, n_members = returns.shape
    if n_members != len(members) or any(weights.shape != returns.shape for weights in held.values()):
        raise DataError(f"Returns {returns.shape} and the weights held must be (days, {len(members)}) all.")
    taken = {EQUAL_WEIGHT, BEST_FIXED, ORACLE} & set(held)
    if taken:
        raise DataError(f"{taken.pop()} is computed here: the weights that were held need another name.")
    ratios = np.array([sharpe(returns[np.isfinite(returns[:, m]), m]) for m in range(n_members)])
    best = int(np.argmax(np.where(np.isfinite(ratios), ratios, -np.inf)))
    ways = dict(held) | {
        EQUAL_WEIGHT: np.full(returns.shape, 1.0 / n_members),
        BEST_FIXED: np.tile(np.eye(n_members)[best], (n_days, 1)),
        ORACLE: _oracle(returns, horizon_days),
    }
    blended = {name: blended_returns(returns, weights) for name, weights in ways.items()}
    sharpes = {name: sharpe(values) for name, values in blended.items()}
    return {
        name: Regret(
            sharpe=sharpes[name],
            annual_return=float(values.mean()) * DAYS_PER_YEAR if n_days else float("nan"),
            turnover_per_day=_turnover(ways[name]),
            regret={other: sharpes[other] - sharpes[name] for other in ways if other != name},
        )
        for name, values in blended.items()
    }


def blended_returns(returns: FloatArray, weights: FloatArray) -> FloatArray:
    """(D,) sum of weight times return, over the members present; 0 on a day without any."""
    present = np.isfinite(returns)
    shared = np.nan_to_num(given_to_present(weights, present))
    blended: FloatArray = (shared * np.where(present, returns, 0.0)).sum(axis=1)
    return blended


def _oracle(returns: FloatArray, horizon_days: int) -> FloatArray:
    """(D, M) all weight on the member with the best Sharpe ratio of the stretch each day lies in."""
    n_days, n_members = returns.shape
    # A row before the first: the outcome of row d is that of the days after it.
    best = best_members(np.vstack([np.zeros((1, n_members)), returns]), horizon_days)[:n_days]
    weights = np.full(returns.shape, 1.0 / n_members)
    for begin in range(0, n_days, horizon_days):
        if best[begin] >= 0:
            weights[begin : begin + horizon_days] = np.eye(n_members)[best[begin]]
    return weights


def _turnover(weights: FloatArray) -> float:
    if len(weights) < 2:
        return 0.0
    return float(0.5 * np.abs(np.diff(weights, axis=0)).sum(axis=1).mean())


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
