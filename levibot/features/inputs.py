"""What the features of one panel share, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, wraps
from typing import Any, TypeVar

import numpy as np

from levibot.errors import DataError, UsageError
from levibot.features.rolling import carry_forward, change, cross_mean, ewm_mean, log, scaled_change
from levibot.market.bars import BoolArray, FloatArray, Panel

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


def _series(compute: Callable[[Inputs], FloatArray]) -> cached_property[FloatArray]:
    """A series computed on first use. A cut takes it from the inputs that it was cut from."""

    @wraps(compute)
    def read(inputs: Inputs) -> FloatArray:
        if inputs.whole is None:
            return compute(inputs)
        return inputs.cut(getattr(inputs.whole, compute.__name__))

    return cached_property(read)


@dataclass(frozen=True)
class Inputs:
    """The panel's fields with small holes bridged, and the series that many features read. All (T, S).

    In a row without a bar, at most FILL_LIMIT rows after the symbol's last one: high, low and close are that
    last close, volume is zero. The return over a hole is seen in the row in which the bars come back. Farther
    from the last bar everything is NaN. Raises DataError on a price that is not positive.
    whole: inputs of the panel that this one's was cut from, with the same end; what a cut of the rows cannot
        know, and what has been computed there, is taken from it.
    column: the one symbol of `whole` that this panel has; None for all.
    """

    panel: Panel
    whole: Inputs | None = None
    column: int | None = None
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.whole is not None:
            return
        for name in ("open", "high", "low", "close"):
            if (getattr(self.panel, name) <= 0.0).any():
                raise DataError(f"A bar's {name} is not positive.", hint="Check the source of the bars.")

    def cut(self, series: FloatArray) -> FloatArray:
        """This panel's rows and columns of a series of `whole`."""
        columns = slice(None) if self.column is None else slice(self.column, self.column + 1)
        # A copy where several symbols are cut to fewer rows: kernels want each symbol's series contiguous.
        return np.asfortranarray(series[len(series) - len(self.panel) :, columns])

    def tail(self, rows: int) -> Inputs:
        """Inputs of the newest `rows` rows."""
        return Inputs(self.panel.tail(rows), whole=self)

    def alone(self, column: int) -> Inputs:
        """Inputs of one symbol. What reads other symbols is refused there."""
        return Inputs(self.panel.columns(slice(column, column + 1)), whole=self, column=column)

    @cached_property
    def has_bar(self) -> BoolArray:
        """Whether the symbol has a bar in the row."""
        return np.asfortranarray(~np.isnan(self.panel.close))

    @_series
    def close(self) -> FloatArray:
        return carry_forward(self.panel.close, FILL_LIMIT)

    @cached_property
    def high(self) -> FloatArray:
        return np.where(self.has_bar, self.panel.high, self.close)

    @cached_property
    def low(self) -> FloatArray:
        return np.where(self.has_bar, self.panel.low, self.close)

    @_series
    def log_close(self) -> FloatArray:
        # By the same function as the logs of open, high and low: a price that stands has no range at all.
        return log(self.close)

    @_series
    def log_return(self) -> FloatArray:
        """Log return of each row over the row before."""
        return change(self.log_close, 1)

    @_series
    def squared_return(self) -> FloatArray:
        return np.square(self.log_return)

    @cached_property
    def dollar_volume(self) -> FloatArray:
        """Volume times close, in quote currency; zero in a bridged row."""
        return np.where(self.has_bar, self.panel.volume, 0.0) * self.close

    @_series
    def sigma_slow(self) -> FloatArray:
        """Volatility per bar, half-life SLOW_HALF_LIFE_BARS. NaN for a market that does not move."""
        return _sigma(self.squared_return, SLOW_HALF_LIFE_BARS, SLOW_MIN_BARS)

    @_series
    def sigma_fast(self) -> FloatArray:
        """Volatility per bar, half-life FAST_HALF_LIFE_BARS. NaN for a market that does not move."""
        return _sigma(self.squared_return, FAST_HALF_LIFE_BARS, FAST_MIN_BARS)

    def scaled_change(self, bars: int) -> FloatArray:
        """log(C / C[-bars]) / (sigma_slow · √bars): the change in its own standard deviations."""
        return self.shared(
            ("scaled_change", bars),
            lambda: scaled_change(self.log_close, self.sigma_slow, math.sqrt(bars), bars),
        )

    def shared(self, key: Hashable, compute: Callable[[], Shared]) -> Shared:
        """What `compute` gives, computed once a panel: for series that several features read.

        key: names the series and all of its parameters; of two series with one key, the first is taken.
        A symbol alone takes the array that the whole panel has already.
        """
        if key not in self._shared:
            known = (
                self.whole._shared.get(key) if self.whole is not None and self.column is not None else None
            )
            self._shared[key] = self.cut(known) if isinstance(known, np.ndarray) else compute()
        value: Shared = self._shared[key]
        return value

    def extra(self, name: str) -> FloatArray:
        """A side series of the panel as it was known at each row's close; all NaN where the source is off."""
        if name in self.panel.extra:
            return self.panel.extra[name]
        return np.full(self.panel.close.shape, np.nan)

    def across(self, x: FloatArray) -> FloatArray:
        """Mean of `x` over the symbols that have a bar in the row and a value; the same in every column."""
        self._refuse_alone()
        return cross_mean(x, self.has_bar)

    @cached_property
    def leader(self) -> int:
        """Column of the symbol that the others follow: LEADER, or the first symbol of a panel without it."""
        self._refuse_alone()
        return self.panel.symbols.index(LEADER) if LEADER in self.panel.symbols else 0

    @cached_property
    def bars_per_year(self) -> float:
        return timedelta(days=365) / self.panel.interval

    def _refuse_alone(self) -> None:
        if self.column is not None:
            raise UsageError(
                "A formula reads other symbols, and its feature does not say so.",
                hint="Declare the feature with reads_others=True.",
            )


def _sigma(squared_return: FloatArray, half_life_bars: int, min_bars: int) -> FloatArray:
    mean = ewm_mean(squared_return, half_life_bars, HALF_LIVES * half_life_bars, min_bars)
    return np.sqrt(np.where(mean > 0.0, mean, np.nan))
