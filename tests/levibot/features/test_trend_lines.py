"""Lines and averages against numpy's polynomial fit and averages made bar by bar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from levibot.features.trend_lines import TREND_LINES
from tests.levibot.features.one_symbol import OneSymbol, ema, ids


def fit(b: OneSymbol, bars: int) -> tuple[float, float]:
    """Slope a bar, and the line at the newest bar."""
    slope, first = np.polyfit(np.arange(bars), b.lc[-bars:], 1)
    return float(slope), float(first + slope * (bars - 1))


def line_fit(b: OneSymbol, bars: int) -> float:
    correlation = np.corrcoef(np.arange(bars), b.lc[-bars:])[0, 1]
    return float(correlation * abs(correlation))


def average_cross(b: OneSymbol, bars: int, slow_bars: int) -> float:
    return np.log(b.c[-bars:].mean() / b.c[-slow_bars:].mean()) / (b.sigma * np.sqrt(slow_bars))


def macd_lines(b: OneSymbol, bars: int, slow_bars: int) -> tuple[float, float]:
    line = ema(b.c, bars) - ema(b.c, slow_bars)
    scale = b.c[-1] * b.sigma * np.sqrt(slow_bars)
    return line[-1] / scale, (line[-1] - ema(line, bars * 3 // 4)[-1]) / scale


EXPECTED: dict[str, Callable[..., float]] = {
    "slope": lambda b, bars: fit(b, bars)[0] * bars / (b.sigma * np.sqrt(bars)),
    "line_fit": line_fit,
    "line_gap": lambda b, bars: (b.lc[-1] - fit(b, bars)[1]) / (b.sigma * np.sqrt(bars)),
    "price_score": lambda b, bars: (b.lc[-1] - b.lc[-bars:].mean()) / b.lc[-bars:].std(),
    "average_cross": average_cross,
    "ema_gap": lambda b, bars: np.log(b.c[-1] / ema(b.c, bars)[-1]) / (b.sigma * np.sqrt(bars)),
    "macd": lambda b, bars, slow_bars: macd_lines(b, bars, slow_bars)[0],
    "macd_histogram": lambda b, bars, slow_bars: macd_lines(b, bars, slow_bars)[1],
}


@pytest.mark.parametrize("feature", TREND_LINES, ids=ids)
def test_a_line_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-6, abs=1e-9)
