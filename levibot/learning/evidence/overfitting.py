"""How often the best of several strategies in one half of the time is below the middle in the other half."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from levibot.errors import DataError
from levibot.market.bars import FloatArray

MIN_BLOCK_DAYS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """Combinatorially symmetric cross-validation (Bailey, Borwein, López de Prado & Zhu 2017).

    logits: (C,) one a division of the time into halves: log of the odds of the rank that the best of the
    first half has in the second; above 0 it is in the better half there. chosen: (C,) which one it was.
    ratios: (C, 2) its Sharpe ratio of one day in the half that chose it, and in the other.
    """

    logits: FloatArray
    chosen: npt.NDArray[np.intp]
    ratios: FloatArray

    @property
    def probability(self) -> float:
        """PBO: the share of divisions in which the choice is not above the middle out of sample.

        About one half for strategies without edge that have nothing to do with each other, near 0 where one
        is truly better, near 1 where what wins in one half must lose in the other.
        """
        return float(np.mean(self.logits <= 0.0))

    @property
    def probability_of_loss(self) -> float:
        """The share of divisions in which the choice loses out of sample."""
        return float(np.mean(self.ratios[:, 1] < 0.0))


def overfitting(returns: FloatArray, n_blocks: int = 16) -> Overfitting:
    """PBO of choosing by Sharpe ratio among strategies.

    returns: (T, N) simple daily returns of N >= 2 strategies over the same days, oldest first. n_blocks:
    even; the days are cut into so many blocks of equal length, and the newest few that do not fill one are
    left out.
    A strategy that does nothing in a half has the ratio 0 there. Equal strategies share their rank.
    Raises DataError on a return that is not finite, on fewer than 2 strategies, on blocks of less than two
    days, and on a strategy whose returns do not vary in a half and are not zero.
    """
    n_days, n_strategies = returns.shape
    if n_blocks < 2 or n_blocks % 2 or n_strategies < 2 or n_days < MIN_BLOCK_DAYS * n_blocks:
        raise DataError(
            f"{n_days} days of {n_strategies} strategies cannot be cut into {n_blocks} blocks: it takes an "
            f"even number of blocks of at least {MIN_BLOCK_DAYS} days, and 2 strategies."
        )
    if not np.isfinite(returns).all():
        raise DataError("Overfitting cannot be measured on returns that are not finite.")
    length = n_days // n_blocks
    blocks = returns[: length * n_blocks].reshape(n_blocks, length, n_strategies)
    sums, squares = blocks.sum(axis=1), (blocks**2).sum(axis=1)
    halves = np.zeros((comb(n_blocks, n_blocks // 2), n_blocks))
    for row, inside in zip(halves, combinations(range(n_blocks), n_blocks // 2), strict=True):
        row[list(inside)] = 1.0
    first = _ratios(halves @ sums, halves @ squares, length * n_blocks // 2)
    second = _ratios((1.0 - halves) @ sums, (1.0 - halves) @ squares, length * n_blocks // 2)
    chosen = first.argmax(axis=1)
    at = np.arange(len(halves))
    rank = rankdata(second, axis=1)[at, chosen] / (n_strategies + 1)
    ratios = np.column_stack([first[at, chosen], second[at, chosen]])
    return Overfitting(np.log(rank / (1.0 - rank)), chosen, ratios)


def _ratios(sums: FloatArray, squares: FloatArray, n: int) -> FloatArray:
    mean = sums / n
    variance = (squares - n * mean**2) / (n - 1)
    # What rounding leaves of no variance at all.
    is_constant = variance <= 1e-12 * squares
    if (is_constant & (squares > 0.0)).any():
        raise DataError("A strategy whose returns do not vary in one half of the days has no Sharpe ratio.")
    return np.where(is_constant, 0.0, mean / np.sqrt(np.where(is_constant, 1.0, variance)))
