"""The market as a whole, a row a finished UTC day: what regimes and the router read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel, TimeArray

DAYS_PER_YEAR = 365.0
TREND_DAYS = 28
SLOW_DAYS = 45
FAST_DAYS = 7
# Days before a row that a row reads. A server that holds as many says what a history says.
WINDOW_DAYS = max(TREND_DAYS, SLOW_DAYS) + 1

_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, slots=True)
class MarketDays:
    """Finished days, oldest first, none missing in between. NaN where a day has no bar to tell.

    day: (D,) datetime64[D]. market_return: (D,) mean log return of the symbols, close to close of the day.
    volatility: (D,) annualised, of the mean return bar by bar. log_value: (D,) log of what was traded, in
    quote currency. breadth: (D,) share of symbols above their close 28 days before. dispersion: (D,)
    standard deviation of the symbols' returns.
    """

    day: TimeArray
    market_return: FloatArray
    volatility: FloatArray
    log_value: FloatArray
    breadth: FloatArray
    dispersion: FloatArray

    def __len__(self) -> int:
        return len(self.day)

    @property
    def available_at(self) -> TimeArray:
        """(D,) the midnight that ends each day: from then on a row may be used, and not before."""
        return (self.day + _DAY).astype("datetime64[us]")

    def regime_observations(self) -> FloatArray:
        """(D, 2): the market's return over 28 days in its own standard deviations, and log volatility of 7.

        Of the single day's return a hidden Markov model makes states of volatility: on the recorded market it
        changed state 64 times a year, and called half of 2022 a bull market. The first is NaN before the 45th
        day, the second before the 7th.
        """
        variance = _rolling_mean(self.volatility**2, SLOW_DAYS)
        trend = _rolling_mean(self.market_return, TREND_DAYS) * TREND_DAYS
        with np.errstate(divide="ignore", invalid="ignore"):
            strength = trend / np.sqrt(variance * TREND_DAYS / DAYS_PER_YEAR)
            level = 0.5 * np.log(_rolling_mean(self.volatility**2, FAST_DAYS))
        return _finite(np.column_stack([strength, level]))

    def router_columns(self) -> tuple[tuple[str, ...], FloatArray]:
        """Names, and (D, 6): volatility and its change, change of the value traded, breadth, dispersion."""
        with np.errstate(divide="ignore", invalid="ignore"):
            fast = 0.5 * np.log(_rolling_mean(self.volatility**2, FAST_DAYS))
            slow = 0.5 * np.log(_rolling_mean(self.volatility**2, SLOW_DAYS))
            dispersion = np.log(_rolling_mean(self.dispersion, FAST_DAYS))
        columns = {
            "volatility": fast,
            "volatility_change": fast - slow,
            "value_change": _rolling_mean(self.log_value, FAST_DAYS)
            - _rolling_mean(self.log_value, SLOW_DAYS),
            "breadth": _rolling_mean(self.breadth, FAST_DAYS),
            "dispersion": dispersion,
            "trend": self.regime_observations()[:, 0],
        }
        return tuple(columns), _finite(np.column_stack(list(columns.values())))


def market_days(panel: Panel) -> MarketDays:
    """The finished days of a panel. A day is finished when a bar closes at its midnight, or later.

    A bar that closes at midnight belongs to the day that ends there, as in `daily_returns`.
    Raises DataError on a panel without bars.
    """
    if len(panel) == 0:
        raise DataError("A panel without bars has no days.")
    closes_at = panel.closes_at
    of_bar = (closes_at - np.timedelta64(1, "us")).astype("datetime64[D]")
    day = np.arange(of_bar[0], closes_at[-1].astype("datetime64[D]"))
    n_days = len(day)
    index = (of_bar - of_bar[0]).astype(np.int64)
    kept = index < n_days
    index = index[kept]
    log_close = _carried(np.log(panel.close[kept]))
    last = np.searchsorted(index, np.arange(n_days), side="right") - 1
    has_bar = np.bincount(index, minlength=n_days) > 0

    levels = np.full((n_days, log_close.shape[1]), np.nan)
    levels[last >= 0] = log_close[last[last >= 0]]
    moved = _change(levels, 1)
    per_bar = _row_mean(_change(log_close, 1))
    told = np.isfinite(per_bar)
    squares = np.bincount(index[told], np.square(per_bar[told]), minlength=n_days)
    counts = np.bincount(index[told], minlength=n_days)
    bars_per_day = _DAY / np.timedelta64(panel.interval)
    value = np.nansum(panel.close[kept] * panel.volume[kept], axis=1)
    traded = np.bincount(index, value, minlength=n_days)
    month = _change(levels, TREND_DAYS)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where(counts > 0, squares / counts, np.nan) * bars_per_day * DAYS_PER_YEAR
        log_value = np.where(traded > 0.0, np.log(traded), np.nan)
    known = np.isfinite(moved)
    mean = _row_mean(moved)
    spread = np.sqrt(_row_mean(np.where(known, np.square(moved - mean[:, None]), np.nan)))
    told_rows = (mean, np.sqrt(variance), log_value)
    market_return, volatility, log_value = (np.where(has_bar, row, np.nan) for row in told_rows)
    return MarketDays(
        day=day,
        market_return=market_return,
        volatility=volatility,
        log_value=log_value,
        breadth=np.where(has_bar, _row_mean(np.where(np.isfinite(month), month > 0.0, np.nan)), np.nan),
        dispersion=np.where(has_bar & (known.sum(axis=1) > 1), spread, np.nan),
    )


def _carried(levels: FloatArray) -> FloatArray:
    """Each column's last known value, NaN before its first."""
    row = np.where(np.isfinite(levels), np.arange(len(levels))[:, None], 0)
    carried: FloatArray = np.take_along_axis(levels, np.maximum.accumulate(row, axis=0), axis=0)
    return carried


def _change(levels: FloatArray, lag: int) -> FloatArray:
    change = np.full_like(levels, np.nan)
    change[lag:] = levels[lag:] - levels[:-lag]
    return change


def _row_mean(values: FloatArray) -> FloatArray:
    """Mean of each row's finite values, NaN without any."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    mean: FloatArray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return mean


def _rolling_mean(values: FloatArray, days: int) -> FloatArray:
    """Mean of the finite values of the last `days` rows; NaN where fewer than four fifths of them are."""
    rolled = np.full(len(values), np.nan)
    if len(values) >= days:
        windows = np.lib.stride_tricks.sliding_window_view(values, days)
        enough = 5 * np.isfinite(windows).sum(axis=1) >= 4 * days
        rolled[days - 1 :] = np.where(enough, _row_mean(windows), np.nan)
    return rolled


def _finite(columns: FloatArray) -> FloatArray:
    """Infinities, of a market that stood still, are not observed either."""
    return np.where(np.isfinite(columns), columns, np.nan)
