"""What a policy is rewarded for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from numba import njit

from levibot.errors import DataError

Objective = Literal["log_return", "differential_sharpe"]


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of one bar, of equity after all costs.

    objective: "log_return": log of equity over the equity a bar before; it adds up to the log of what the
        episode earned. "differential_sharpe": what the bar adds to an exponentially weighted Sharpe ratio
        (Moody & Saffell 2001, eq. 9), whose moments begin at zero with the episode.
    drawdown_penalty: >= 0, times how much the bar deepens the drawdown (a fraction of the highest equity of
        the episode), is taken off either. Over an episode the penalties add up to all falls below old highs.
    adaptation: in (0, 1], the weight of the newest bar in the moments of the Sharpe ratio.
    least_volatility: > 0, a bar. The Sharpe ratio is counted as if the account moved at least so much:
        without it a long flat stretch makes the first move after it a reward without bound.
    Raises DataError outside these.
    """

    objective: Objective = "log_return"
    drawdown_penalty: float = 0.0
    adaptation: float = 0.01
    least_volatility: float = 1e-3

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise DataError(f"The reward is {self.objective!r}: it must be one of {get_args(Objective)}.")
        if not 0.0 <= self.drawdown_penalty < math.inf:
            raise DataError(f"drawdown_penalty is {self.drawdown_penalty}: it must not be negative.")
        if not 0.0 < self.adaptation <= 1.0:
            raise DataError(f"adaptation is {self.adaptation}: it must lie in (0, 1].")
        if not 0.0 < self.least_volatility < math.inf:
            raise DataError(f"least_volatility is {self.least_volatility}: it must be above zero.")

    @property
    def rule(self) -> RewardRule:
        """As the kernel reads it."""
        is_sharpe = self.objective == "differential_sharpe"
        return RewardRule(is_sharpe, self.drawdown_penalty, self.adaptation, self.least_volatility**2)


class RewardRule(NamedTuple):
    """A `Reward` as the compiled kernel reads it."""

    is_sharpe: bool
    drawdown_penalty: float
    adaptation: float
    least_variance: float


@njit(cache=True)
def reward_of(
    before: float, after: float, peak: float, mean: float, mean_square: float, rule: RewardRule
) -> tuple[float, float, float, float]:
    """The reward of one bar, and the peak and moments after it.

    before, after: equity at the two closes, > 0. peak: highest equity before. mean, mean_square: of the
    simple returns so far, exponentially weighted; unchanged where the objective has none.
    """
    growth = after / before
    if rule.is_sharpe:
        earned = growth - 1.0
        variance = max(mean_square - mean * mean, rule.least_variance)
        new_mean, new_square = earned - mean, earned * earned - mean_square
        reward = (mean_square * new_mean - 0.5 * mean * new_square) / (variance * math.sqrt(variance))
        mean += rule.adaptation * new_mean
        mean_square += rule.adaptation * new_square
    else:
        reward = math.log(growth)
    highest = max(peak, after)
    if rule.drawdown_penalty > 0.0:
        reward -= rule.drawdown_penalty * max(0.0, before / peak - after / highest)
    return reward, highest, mean, mean_square
