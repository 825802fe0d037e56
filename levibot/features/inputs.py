"""What the features of one panel share, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from levibot.errors import DataError
from levibot.features.rolling import BoolArray, carry_forward, cross_mean, ewm_mean, lag, ratio
from levibot.market.bars import FloatArray, Panel

# A symbol without a bar keeps its last close over at most this many rows. A longer hole restarts its windows.
FILL_LIMIT = 24

# Half-lives of 45 and 10 days of hourly bars. Weights older than three half-lives are dropped.
SLOW_HALF_LIFE_BARS = 1080
FAST_HALF_LIFE_BARS = 240
HALF_LIVES = 3
# A symbol gets its first volatility after 56 days, not after the whole window of 135.
SLOW_MIN_BARS = 1344
FAST_MIN_BARS = 480

LEADER = "BTCUSDT"

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Inputs:
    """The panel's fields with small holes bridged, and the series that many features read. All (T, S).

    In a row without a bar, at most FILL_LIMIT rows after the symbol's last one: high, low and close are that
    last close, volume is zero. The return over a hole is seen in the row in which the bars come back. Farther
    from the last bar everything is NaN. Raises DataError on a price that is not positive.
    longer: inputs of a longer panel with the same end; what needs more rows than this one has is taken there.
    """

    panel: Panel
    longer: Inputs | None = None
    _scaled_changes: dict[int, FloatArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("open", "high", "low", "close"):
            if np.any(getattr(self.panel, name) <= 0.0):
                raise DataError(f"A bar's {name} is not positive.", hint="Check the source of the bars.")

    @cached_property
    def has_bar(self) -> BoolArray:
        """Whether the symbol has a bar in the row."""
        return np.asfortranarray(~np.isnan(self.panel.close))

    @cached_property
    def close(self) -> FloatArray:
        if self.longer is not None:
            return self.longer.close[-len(self.panel) :]
        return carry_forward(self.panel.close, FILL_LIMIT)

    @cached_property
    def high(self) -> FloatArray:
        return np.where(self.has_bar, self.panel.high, self.close)

    @cached_property
    def low(self) -> FloatArray:
        return np.where(self.has_bar, self.panel.low, self.close)

    @cached_property
    def log_close(self) -> FloatArray:
        return np.log(self.close)

    @cached_property
    def log_return(self) -> FloatArray:
        """Log return of each row over the row before."""
        return self.log_close - lag(self.log_close, 1)

    @cached_property
    def squared_return(self) -> FloatArray:
        return np.square(self.log_return)

    @cached_property
    def dollar_volume(self) -> FloatArray:
        """Volume times close, in quote currency; zero in a bridged row."""
        return np.where(self.has_bar, self.panel.volume, 0.0) * self.close

    @cached_property
    def sigma_slow(self) -> FloatArray:
        """Volatility per bar, half-life SLOW_HALF_LIFE_BARS. NaN for a market that does not move."""
        if self.longer is not None:
            return self.longer.sigma_slow[-len(self.panel) :]
        return _sigma(self.squared_return, SLOW_HALF_LIFE_BARS, SLOW_MIN_BARS)

    @cached_property
    def sigma_fast(self) -> FloatArray:
        """Volatility per bar, half-life FAST_HALF_LIFE_BARS. NaN for a market that does not move."""
        return _sigma(self.squared_return, FAST_HALF_LIFE_BARS, FAST_MIN_BARS)

    def tail(self, rows: int) -> Inputs:
        """Inputs of the newest `rows` rows, with the closes and volatilities of these."""
        return Inputs(self.panel.tail(rows), longer=self)

    def scaled_change(self, bars: int) -> FloatArray:
        """log(C / C[-bars]) / (sigma_slow · √bars): the change in its own standard deviations."""
        if bars not in self._scaled_changes:
            change = self.log_close - lag(self.log_close, bars)
            self._scaled_changes[bars] = ratio(change, self.sigma_slow * math.sqrt(bars))
        return self._scaled_changes[bars]

    def shared(self, key: Hashable, compute: Callable[[], Shared]) -> Shared:
        """What `compute` gives, computed once a panel: for series that several features read.

        key: names the series and all of its parameters; of two series with one key, the first is taken.
        """
        if key not in self._shared:
            self._shared[key] = compute()
        value: Shared = self._shared[key]
        return value

    def extra(self, name: str) -> FloatArray:
        """A side series of the panel as it was known at each row's close; all NaN where the source is off."""
        if name in self.panel.extra:
            return self.panel.extra[name]
        return np.full(self.panel.close.shape, np.nan)

    def across(self, x: FloatArray) -> FloatArray:
        """Mean of `x` over the symbols that have a bar in the row and a value; the same in every column."""
        return cross_mean(x, self.has_bar)

    @cached_property
    def leader(self) -> int:
        """Column of the symbol that the others follow: LEADER, or the first symbol of a panel without it."""
        return self.panel.symbols.index(LEADER) if LEADER in self.panel.symbols else 0

    @cached_property
    def bars_per_year(self) -> float:
        return timedelta(days=365) / self.panel.interval


def _sigma(squared_return: FloatArray, half_life_bars: int, min_bars: int) -> FloatArray:
    mean = ewm_mean(squared_return, half_life_bars, HALF_LIVES * half_life_bars, min_bars)
    return np.sqrt(np.where(mean > 0.0, mean, np.nan))
