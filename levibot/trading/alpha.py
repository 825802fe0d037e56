"""What a strategy earns beside what the market gave anybody who held it."""

from __future__ import annotations

import numpy as np

from levibot.market.bars import FloatArray


def alpha_z(returns: FloatArray, market: FloatArray) -> float:
    """The intercept of daily returns (D,) on the market's (D,), over its standard error (least squares).

    About standard normal where the strategy knows nothing, whatever it holds of the market on average. NaN
    with fewer than four days, and where the returns are a multiple of the market's: nothing is left to judge.
    """
    if len(returns) < 4:
        return float("nan")
    design = np.column_stack([np.ones(len(market)), market])
    fitted, _, rank, _ = np.linalg.lstsq(design, returns, rcond=None)
    left = returns - design @ fitted
    if rank < 2 or float(left @ left) <= 1e-24 * float(returns @ returns):
        return float("nan")
    variance = float(left @ left) / (len(returns) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(fitted[0] / np.sqrt(variance))
