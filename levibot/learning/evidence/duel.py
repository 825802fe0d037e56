"""Two strategies of the same days, held against each other week by week at one risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.learning.evidence.sequential import confidence_sequence
from levibot.market.bars import FloatArray

_DAYS = 7
# Days whose deviation is the first measure of risk.
FIRST_DAYS = 63
# A year, and half of one before anything is decided.
PLAN_WEEKS, FIRST_LOOK_WEEKS = 52, 26


@dataclass(frozen=True, slots=True)
class Duel:
    """Whether the first earns more than the second, looked at after every week; see `confidence_sequence`.

    weeks: that were compared. mean, low, high: of the weekly difference, each stream in units of its daily
    deviation, after the last week; NaN without one, infinite where nothing could be decided yet.
    decided_after: weeks until zero was first outside, None where it never was.
    """

    weeks: int
    mean: float
    low: float
    high: float
    decided_after: int | None
    first_is_better: bool | None

    def to_json(self) -> dict[str, Any]:
        """What is not defined is null."""
        return {
            "weeks": self.weeks,
            **{
                name: value if np.isfinite(value) else None
                for name, value in (("mean", self.mean), ("low", self.low), ("high", self.high))
            },
            "decided_after_weeks": self.decided_after,
            "first_is_better": self.first_is_better,
        }


def duel(first: FloatArray, second: FloatArray) -> Duel:
    """first, second: (D,) daily net returns of the same days, oldest first; `second` may be the control.

    Whole weeks are summed, because days hang together. Each week is divided by the deviation of all days
    before it, which is known when it begins: at one risk, the one with the higher Sharpe ratio earns more.
    Weeks before there are 63 days, and a last week that is not whole, are left out. Raises DataError as
    `confidence_sequence`.
    """
    streams = [_at_one_risk(returns) for returns in (first, second)]
    if not len(streams[0]):
        return Duel(0, np.nan, np.nan, np.nan, None, None)
    found = confidence_sequence(*streams, plan_days=PLAN_WEEKS, first_look_days=FIRST_LOOK_WEEKS)
    mean, low, high = (float(values[-1]) for values in (found.mean, found.low, found.high))
    return Duel(len(streams[0]), mean, low, high, found.decided_after, found.first_is_better)


def _at_one_risk(returns: FloatArray) -> FloatArray:
    """(W,) sums of weeks over the deviation of the days before; 0 where nothing has varied yet."""
    begins = np.arange(FIRST_DAYS, len(returns) - _DAYS + 1, _DAYS)
    sums = np.array([returns[begin : begin + _DAYS].sum() for begin in begins])
    deviations = np.array([returns[:begin].std() for begin in begins])
    risked: FloatArray = np.divide(sums, deviations, out=np.zeros(len(begins)), where=deviations > 0.0)
    return risked
