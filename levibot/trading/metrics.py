"""How good an equity curve is: simple daily returns at UTC midnights, after whatever costs it has paid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, TimeArray

DAYS_PER_YEAR = 365.0
_BLOCK_DAYS = 10.0
_RESAMPLES = 2_000
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float


def days_of(known_at: TimeArray) -> TimeArray:
    """(D,) the UTC days, none left out, from that of the first close to that of the last.

    known_at: (T,) closes of bars, increasing. A close at midnight belongs to the day that ends there.
    """
    days = (known_at[[0, -1]] - np.timedelta64(1, "us")).astype("datetime64[D]")
    return np.arange(days[0], days[1] + _DAY)


def daily_returns(known_at: TimeArray, equity: FloatArray, start_equity: float) -> FloatArray:
    """Simple return of each UTC day, (D,), from the day of the first bar to the day of the last.

    known_at: (T,) closes of the bars, increasing. equity: (T,) at those closes. The equity of a day is the
    last one known at its closing midnight, so a day without bars returns 0; the last day may be cut short.
    A day that starts without equity returns 0: a bankrupt account earns nothing more. Empty in, DataError.
    """
    if len(known_at) == 0:
        raise DataError("An equity curve without bars has no returns.")
    midnights = days_of(known_at) + _DAY
    rows = np.searchsorted(known_at, midnights.astype(known_at.dtype), side="right") - 1
    levels = np.concatenate(([start_equity], equity[rows]))
    before, after = levels[:-1], levels[1:]
    alive = before > 0.0
    return np.where(alive, after / np.where(alive, before, 1.0) - 1.0, 0.0)


def sharpe(returns: FloatArray) -> float:
    """Annualised Sharpe ratio: mean over standard deviation (n - 1) of daily returns (D,), times sqrt(365).

    No risk-free rate is taken off. NaN where it is not defined: fewer than two days, or no variation.
    """
    if len(returns) < 2:
        return float("nan")
    deviation = float(np.std(returns, ddof=1))
    # Equal returns leave a deviation of rounding only.
    if deviation <= 1e-12 * float(np.max(np.abs(returns), initial=0.0)):
        return float("nan")
    return float(np.mean(returns)) / deviation * float(np.sqrt(DAYS_PER_YEAR))


def sharpe_interval(
    returns: FloatArray, *, seed: int, block_days: float = _BLOCK_DAYS, resamples: int = _RESAMPLES
) -> Interval:
    """95 % percentile interval of `sharpe` under the stationary bootstrap (Politis & Romano 1994).

    Blocks of geometric length with mean `block_days`, wrapped around the end, keep the days' dependence.
    NaN on both sides where the Sharpe ratio itself is not defined, and with no more days than a block has:
    resamples would be the same days turned around, and the interval too narrow.
    """
    n = len(returns)
    if n <= block_days or np.isnan(sharpe(returns)):
        return Interval(float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n, size=(resamples, n))
    is_new = rng.random((resamples, n)) < 1.0 / block_days
    is_new[:, 0] = True
    columns = np.arange(n)
    # Each day continues the block that began last before it.
    began = np.maximum.accumulate(np.where(is_new, columns, 0), axis=1)
    rows = (np.take_along_axis(starts, began, axis=1) + columns - began) % n
    drawn = returns[rows]
    deviation = drawn.std(axis=1, ddof=1)
    ratios = drawn.mean(axis=1)[deviation > 0.0] / deviation[deviation > 0.0] * np.sqrt(DAYS_PER_YEAR)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(float(low), float(high))


def max_drawdown(equity: FloatArray, start_equity: float) -> float:
    """Deepest fall from an earlier high, as a fraction <= 0 of that high. equity: (T,), any spacing."""
    levels = np.concatenate(([start_equity], equity))
    return float(np.min(levels / np.maximum.accumulate(levels) - 1.0))


def annual_return(final_equity: float, start_equity: float, n_days: float) -> float:
    """Compound growth a year of 365 days, over `n_days`; -1 for a lost account.

    Infinite where a year of such days leaves the floats: a few days that multiplied the account.
    """
    growth = final_equity / start_equity
    if growth <= 0.0:
        return -1.0
    with np.errstate(over="ignore"):
        return float(np.expm1(np.log(growth) * (DAYS_PER_YEAR / n_days)))


def turnover_per_day(turnover: FloatArray, n_days: int) -> float:
    """Traded value over equity, a day. turnover: (T,) a bar; both sides of a round trip count."""
    return float(np.sum(turnover)) / n_days
