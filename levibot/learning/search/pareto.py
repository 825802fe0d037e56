"""Scores with two objectives, of which more is better in both: who is worse than whom, and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from levibot.market.bars import FloatArray


@dataclass(frozen=True, slots=True)
class Score:
    """What a search judges by, net of costs.

    net_sharpe: annualised, NaN where the account never moved; that is worse than any number.
    max_drawdown: <= 0, so nearer to zero is better.
    """

    net_sharpe: float
    max_drawdown: float

    @property
    def is_defined(self) -> bool:
        return math.isfinite(self.net_sharpe) and math.isfinite(self.max_drawdown)

    def to_json(self) -> dict[str, float | None]:
        return {"net_sharpe": _number(self.net_sharpe), "max_drawdown": _number(self.max_drawdown)}

    @classmethod
    def from_json(cls, values: dict[str, float | None]) -> Self:
        sharpe, drawdown = (values[name] for name in ("net_sharpe", "max_drawdown"))
        return cls(math.nan if sharpe is None else sharpe, math.nan if drawdown is None else drawdown)


def front_ranks(scores: Sequence[Score]) -> npt.NDArray[np.intp]:
    """(N,) 0 for the scores that none dominates, 1 for those that only these dominate, and so on.

    One dominates another that is nowhere better and somewhere worse, so equal scores share a rank.
    """
    values = _losses(scores)
    ranks = np.full(len(scores), -1, dtype=np.intp)
    rank = 0
    while (left := np.flatnonzero(ranks < 0)).size:
        own = values[left]
        no_worse = (own[:, None, :] <= own[None, :, :]).all(axis=2)
        better = (own[:, None, :] < own[None, :, :]).any(axis=2)
        ranks[left[~(no_worse & better).any(axis=0)]] = rank
        rank += 1
    return ranks


def front(scores: Sequence[Score]) -> list[int]:
    """Which of the scores none dominates, best Sharpe ratio first. Undefined ones never belong to it."""
    ranks = front_ranks(scores)
    best = [k for k in range(len(scores)) if ranks[k] == 0 and scores[k].is_defined]
    return sorted(best, key=lambda k: (-scores[k].net_sharpe, -scores[k].max_drawdown))


def hypervolume(scores: Sequence[Score], worst: Score) -> float:
    """The area that the scores dominate above `worst` (Zitzler & Thiele 1998); those below it add nothing."""
    best = [scores[k] for k in front(scores)]
    area, floor = 0.0, worst.max_drawdown
    for score in best:
        if score.net_sharpe > worst.net_sharpe and score.max_drawdown > floor:
            area += (score.net_sharpe - worst.net_sharpe) * (score.max_drawdown - floor)
            floor = score.max_drawdown
    return area


def own_areas(scores: Sequence[Score]) -> list[float]:
    """What each score of one front adds to its hypervolume; more than any other for the two ends.

    Undefined ones add nothing.
    """
    there = [score for score in scores if score.is_defined]
    if not there:
        return [0.0] * len(scores)
    ends = {max(s.net_sharpe for s in there), min(s.net_sharpe for s in there)}
    worst = Score(min(ends), min(s.max_drawdown for s in there))
    whole = hypervolume(there, worst)
    return [
        0.0
        if not score.is_defined
        else float("inf")
        if score.net_sharpe in ends
        else whole - hypervolume([*scores[:k], *scores[k + 1 :]], worst)
        for k, score in enumerate(scores)
    ]


def _losses(scores: Sequence[Score]) -> FloatArray:
    values = -np.array([(s.net_sharpe, s.max_drawdown) for s in scores], dtype=np.float64).reshape(-1, 2)
    return np.where(np.isnan(values), np.inf, values)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
