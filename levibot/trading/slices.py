"""Daily returns cut into years and regimes: whether one good stretch made the figure of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, TimeArray
from levibot.trading.metrics import max_drawdown, sharpe


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the days. sharpe_net: NaN where it is not defined. total_return: compound. max_drawdown: <= 0,
    on the days put one after the other.
    """

    days: int
    sharpe_net: float
    total_return: float
    max_drawdown: float

    def to_json(self) -> dict[str, Any]:
        """What is not defined is null."""
        return {
            "days": self.days,
            "sharpe_net": self.sharpe_net if np.isfinite(self.sharpe_net) else None,
            "total_return": self.total_return,
            "max_drawdown": self.max_drawdown,
        }


def by_year(day: TimeArray, returns: FloatArray) -> dict[str, Slice]:
    """day: (D,) datetime64[D]. returns: (D,). One slice a calendar year, oldest first."""
    years = day.astype("datetime64[Y]")
    return {str(year): _slice(returns[years == year]) for year in np.unique(years)}


def by_regime(returns: FloatArray, probabilities: FloatArray, names: Sequence[str]) -> dict[str, Slice]:
    """A day belongs to the regime that was most probable when it began, and to none before there is any.

    returns: (D,). probabilities: (D, R) as known at the END of each day, so the row before decides; NaN where
    unknown. names: (R,). Regimes without a day are left out. Raises DataError on other shapes.
    """
    if probabilities.shape != (len(returns), len(names)):
        raise DataError(
            f"Probabilities have shape {probabilities.shape}: {len(returns)} days and {len(names)} regimes."
        )
    before = np.vstack([np.full((1, len(names)), np.nan), probabilities[:-1]])
    known = np.isfinite(before).all(axis=1)
    regime = np.where(known, np.nan_to_num(before).argmax(axis=1), -1)
    return {
        name: _slice(returns[regime == number])
        for number, name in enumerate(names)
        if (regime == number).any()
    }


def _slice(returns: FloatArray) -> Slice:
    levels: FloatArray = np.cumprod(1.0 + returns, dtype=np.float64)
    return Slice(len(returns), sharpe(returns), float(levels[-1] - 1.0), max_drawdown(levels, 1.0))
