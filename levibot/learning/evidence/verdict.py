"""What is to be thought of one Sharpe ratio, with every trial that it was the best of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from levibot.learning.evidence.deflated_sharpe import deflated_sharpe
from levibot.learning.evidence.family import Family
from levibot.learning.evidence.sharpe_estimate import SharpeEstimate, min_track_record, probabilistic_sharpe
from levibot.market.bars import FloatArray


@dataclass(frozen=True, slots=True)
class Verdict:
    """Probabilities are those of one day's true ratio; NaN where the ratio is not defined.

    psr: of being above 0. deflated: of being above what the best of the family shows without edge.
    min_track_record_days: until psr reaches 0.95; infinite where the ratio is not above 0.
    """

    psr: float
    deflated: float
    min_track_record_days: float
    family: Family

    def to_json(self) -> dict[str, Any]:
        """JSON values only; what is not defined, and a track record without end, is null."""
        return {
            "psr": _number(self.psr),
            "deflated_sharpe": {
                "probability": _number(self.deflated),
                "n_trials": self.family.n_trials,
                "n_effective": self.family.n_effective,
            },
            "min_track_record_days": _number(self.min_track_record_days),
        }


def judge(daily_returns: FloatArray, family: Family) -> Verdict:
    """Weigh net daily returns (D,). Raises DataError on a return that is not finite."""
    estimate = SharpeEstimate.of(daily_returns)
    return Verdict(
        psr=probabilistic_sharpe(estimate),
        deflated=deflated_sharpe(estimate, family.n_effective, family.sharpe_variance),
        min_track_record_days=min_track_record(estimate),
        family=family,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
