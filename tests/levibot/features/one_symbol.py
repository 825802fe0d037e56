"""One symbol's bars up to the newest, and the averages that independent computations need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from levibot.features.feature import Feature
from levibot.market.bars import FloatArray, Panel


@dataclass(frozen=True)
class OneSymbol:
    """Fields (T,), oldest first. sigma: slow volatility a bar at the newest row. leader: its log returns."""

    o: FloatArray
    h: FloatArray
    l: FloatArray  # noqa: E741
    c: FloatArray
    v: FloatArray
    sigma: float
    leader: FloatArray
    extra: dict[str, FloatArray]

    @cached_property
    def lc(self) -> FloatArray:
        return np.log(self.c)

    @cached_property
    def r(self) -> FloatArray:
        """Log return of each bar after the first."""
        return np.diff(self.lc)

    @cached_property
    def dollars(self) -> FloatArray:
        return self.v * self.c

    @cached_property
    def true_range(self) -> FloatArray:
        """In prices, of each bar after the first."""
        return np.maximum(self.h[1:], self.c[:-1]) - np.minimum(self.l[1:], self.c[:-1])


def slow_sigma(close: FloatArray) -> float:
    """Root of the mean squared log return, weighted with a half-life of 1,080 bars, by the definition."""
    newest_first = np.diff(np.log(close))[::-1][:3240]
    weights = 0.5 ** (np.arange(len(newest_first)) / 1080)
    return float(np.sqrt(weights @ newest_first**2 / weights.sum()))


def one_symbol(panel: Panel, symbol: int, leader: int = 0) -> OneSymbol:
    return OneSymbol(
        panel.open[:, symbol],
        panel.high[:, symbol],
        panel.low[:, symbol],
        panel.close[:, symbol],
        panel.volume[:, symbol],
        slow_sigma(panel.close[:, symbol]),
        np.diff(np.log(panel.close[:, leader])),
        {name: values[:, symbol] for name, values in panel.extra.items()},
    )


def ids(feature: Feature) -> str:
    return feature.name


def smoothed(values: FloatArray, weight: float) -> FloatArray:
    """Exponential average from the first value on: by then what it began with is forgotten."""
    out = np.empty(len(values))
    out[0] = values[0]
    for i in range(1, len(values)):
        out[i] = out[i - 1] + weight * (values[i] - out[i - 1])
    return out


def ema(values: FloatArray, span: int) -> FloatArray:
    return smoothed(values, 2.0 / (span + 1))


def wilder(values: FloatArray, length: int) -> FloatArray:
    return smoothed(values, 1.0 / length)
