"""What a model is asked to predict, and when the answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel, TimeArray

CLIP = 3.0
RowArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of every row and symbol for one horizon.

    values: (T, S), NaN where the future is unknown or a price is missing. available_at: (T,) the instant from
    which a row's labels may be used; NaT where that bar does not exist yet. last_row: (T, S) of the last bar
    that each label reads, where it is not that of the horizon.
    """

    horizon_bars: int
    values: FloatArray
    available_at: TimeArray
    last_row: RowArray | None = None

    def ends(self) -> RowArray:
        """(T, S) the row of the last bar that each label reads."""
        if self.last_row is not None:
            return self.last_row
        rows = np.arange(len(self.values), dtype=np.int64) + 1 + self.horizon_bars
        return np.broadcast_to(rows[:, None], self.values.shape)


def forward_returns(panel: Panel, vol_slow: FloatArray, horizon_bars: int) -> Labels:
    """Log return a decision at each row's close would get, in units of its own standard deviation.

    log(open[t+1+h] / open[t+1]) / (vol_slow[t] * sqrt(h / bars a year)), clipped to [-3, 3]: what is decided
    at the close of row t is bought at the next open and held h rows. vol_slow: (T, S) annualised, known at
    row t. The label needs the bar t+1+h; it is available when that bar is finished, and not before.
    Raises DataError on a horizon below 1 or a volatility of another shape.
    """
    if horizon_bars < 1:
        raise DataError(f"The horizon is {horizon_bars} bars: it must be at least 1.")
    if vol_slow.shape != panel.open.shape:
        raise DataError(f"Volatility has shape {vol_slow.shape}, the panel {panel.open.shape}.")
    reach = horizon_bars + 1
    values = np.full(panel.open.shape, np.nan)
    if len(panel) > reach:
        moved = np.log(panel.open[reach:] / panel.open[1:-horizon_bars])
        per_horizon = np.sqrt(horizon_bars / bars_per_year(panel.interval))
        values[:-reach] = np.clip(moved / (vol_slow[:-reach] * per_horizon), -CLIP, CLIP)
    return Labels(horizon_bars, values, reach_ends(panel.closes_at, horizon_bars))


def reach_ends(closes_at: TimeArray, horizon_bars: int) -> TimeArray:
    """(T,) when the last bar that each row's label reads is finished; NaT where it does not exist yet."""
    ends = np.full(len(closes_at), np.datetime64("NaT", "us"))
    reach = horizon_bars + 1
    if len(closes_at) > reach:
        ends[:-reach] = closes_at[reach:]
    return ends


def label_name(horizon_bars: int) -> str:
    """What the history calls the labels of a horizon."""
    return f"forward_return_{horizon_bars}"


def bars_per_year(interval: timedelta) -> float:
    """Bars of a year of 365 days."""
    return timedelta(days=365) / interval
