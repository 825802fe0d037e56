"""Past moves against their definitions over one symbol."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

import numpy as np
import pytest

from levibot.features.momentum import MOMENTUM
from tests.levibot.features.one_symbol import OneSymbol, ids


def moved(b: OneSymbol, bars: int) -> float:
    return float(b.lc[-1] - b.lc[-1 - bars])


def acceleration(b: OneSymbol, bars: int) -> float:
    before = b.lc[-1 - bars] - b.lc[-1 - 2 * bars]
    return (moved(b, bars) - before) / (b.sigma * np.sqrt(2 * bars))


def return_score(b: OneSymbol, bars: int) -> float:
    window = b.r[-bars:]
    return window.mean() / window.std() * np.sqrt(bars)


def run(b: OneSymbol, bars: int) -> float:
    side = np.sign(b.r[-1])
    length = len(list(takewhile(lambda r: np.sign(r) == side, b.r[::-1][:bars])))
    return side * length / bars


EXPECTED: dict[str, Callable[..., float]] = {
    "scaled_return": lambda b, bars: moved(b, bars) / (b.sigma * np.sqrt(bars)),
    "skipped_return": lambda b, bars, skip_bars: (
        (b.lc[-1 - skip_bars] - b.lc[-1 - bars]) / (b.sigma * np.sqrt(bars - skip_bars))
    ),
    "acceleration": acceleration,
    "path_efficiency": lambda b, bars: moved(b, bars) / np.abs(b.r[-bars:]).sum(),
    "sign_balance": lambda b, bars: (b.r[-bars:] > 0).mean() - (b.r[-bars:] < 0).mean(),
    "return_score": return_score,
    "largest_move_share": lambda b, bars: bars * (b.r[-bars:] ** 2).sum() / np.abs(b.r[-bars:]).sum() ** 2,
    "next_hour_return": lambda b, days: (
        sum(b.r[-24 * day] for day in range(1, days + 1)) / (b.sigma * np.sqrt(days))
    ),
    "run": run,
    "opening_gap": lambda b: np.log(b.o[-1] / b.c[-2]) / b.sigma,
    "body": lambda b: np.log(b.c[-1] / b.o[-1]) / b.sigma,
    "upper_shadow": lambda b: np.log(b.h[-1] / max(b.o[-1], b.c[-1])) / np.log(b.h[-1] / b.l[-1]),
    "lower_shadow": lambda b: np.log(min(b.o[-1], b.c[-1]) / b.l[-1]) / np.log(b.h[-1] / b.l[-1]),
}


@pytest.mark.parametrize("feature", MOMENTUM, ids=ids)
def test_a_move_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-8)
