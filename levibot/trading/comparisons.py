"""The strategies of a report held against each other: paired ratios, the router's A/B, and overfitting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from levibot.errors import DataError
from levibot.learning.evidence.duel import Duel, duel
from levibot.learning.evidence.overfitting import overfitting
from levibot.learning.evidence.paired import SharpeDifference, sharpe_difference
from levibot.market.bars import FloatArray

UNSELECTED = "_unselected"
# What the ensemble and the router are held against, where it is there.
_PAIRS = (
    *(("ensemble", other) for other in ("buy_and_hold", "equal_weight", "trend", "fixed_weights")),
    ("router", "fixed_weights"),
    ("vote", "fixed_weights"),
    ("ensemble", f"ensemble{UNSELECTED}"),
)
# Divisions of the days; fewer where so many strategies would fill the memory.
N_BLOCKS, FEW_BLOCKS, MANY_STRATEGIES = 16, 10, 500


@dataclass(frozen=True, slots=True)
class Overfitted:
    """How likely choosing the best of these strategies was overfitting (PBO), by CSCV.

    probability, probability_of_loss: see `Overfitting`; NaN where `problem` says why there is none.
    """

    n_strategies: int
    n_blocks: int
    probability: float
    probability_of_loss: float
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        figures = {
            name: value if math.isfinite(value) else None
            for name, value in (
                ("probability", self.probability),
                ("probability_of_loss", self.probability_of_loss),
            )
        }
        said = {} if self.problem is None else {"problem": self.problem}
        return {"strategies": self.n_strategies, "blocks": self.n_blocks} | figures | said


@dataclass(frozen=True, slots=True)
class Comparisons:
    """differences: by the two names, the first one's Sharpe ratio less the second one's. router: against the
    fixed weights, anytime-valid.
    """

    differences: Mapping[tuple[str, str], SharpeDifference]
    router: Duel

    def to_json(self) -> dict[str, Any]:
        """What is not defined is null."""
        pairs = [
            {
                "first": first,
                "second": second,
                "sharpe_difference": _number(of.difference),
                "standard_error": _number(of.standard_error),
                "p": _number(of.p_bootstrap),
                "ci95": [_number(of.interval95.low), _number(of.interval95.high)],
            }
            for (first, second), of in self.differences.items()
        ]
        return {"paired": pairs, "router_against_fixed_weights": self.router.to_json()}


def compare(daily_returns: Mapping[str, FloatArray], *, seed: int) -> Comparisons:
    """daily_returns: (D,) net of each strategy, the same days, all of them counted. Raises DataError."""
    there = [pair for pair in _PAIRS if set(pair) <= daily_returns.keys()]
    return Comparisons(
        {
            pair: sharpe_difference(*(daily_returns[name] for name in pair), seed=seed)
            for pair in there
            if len(daily_returns[pair[0]]) > 1
        },
        duel(daily_returns["router"], daily_returns["fixed_weights"]),
    )


def overfitted(daily_returns: FloatArray) -> Overfitted:
    """PBO of choosing by Sharpe ratio. daily_returns: (D, N) net, of strategies that were counted.

    16 blocks of days, and 10 for more than 500 strategies.
    """
    n_strategies = daily_returns.shape[1]
    n_blocks = N_BLOCKS if n_strategies <= MANY_STRATEGIES else FEW_BLOCKS
    try:
        found = overfitting(daily_returns, n_blocks)
    except DataError as exc:
        return Overfitted(n_strategies, n_blocks, math.nan, math.nan, str(exc))
    return Overfitted(n_strategies, n_blocks, found.probability, found.probability_of_loss)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
