"""Moments, ranks, drawdowns and ages against scipy and loops over one symbol."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from levibot.features.distribution import DISTRIBUTION
from levibot.market.bars import FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ids


def share_below(series: FloatArray, values: int, stride: int) -> float:
    older = series[-1 - stride :: -stride][:values]
    assert len(older) == values
    return float((older < series[-1]).mean())


def vol_rank(b: OneSymbol, values: int, stride: int) -> float:
    days = [(b.r[len(b.r) - stride * (i + 1) : len(b.r) - stride * i] ** 2).mean() for i in range(values + 1)]
    return float(np.mean([day < days[0] for day in days[1:]]))


def max_drawdown(b: OneSymbol, bars: int) -> float:
    window = b.lc[-bars:]
    return float((np.maximum.accumulate(window) - window).max() / (b.sigma * np.sqrt(bars)))


EXPECTED: dict[str, Callable[..., float]] = {
    "skewness": lambda b, bars: stats.skew(b.r[-bars:]),
    "kurtosis": lambda b, bars: stats.kurtosis(b.r[-bars:]),
    "largest_return_share": lambda b, bars: np.abs(b.r[-bars:]).max() / np.abs(b.r[-bars:]).sum(),
    "gain_loss_size": lambda b, bars: np.log(
        b.r[-bars:][b.r[-bars:] > 0].mean() / -b.r[-bars:][b.r[-bars:] < 0].mean()
    ),
    "close_rank": lambda b, values, stride: share_below(b.c, values, stride),
    "return_rank": lambda b, values, stride: share_below(b.r, values, stride),
    "vol_rank": vol_rank,
    "drawdown": lambda b, bars: np.log(b.c[-1] / b.c[-bars:].max()) / (b.sigma * np.sqrt(bars)),
    "rebound": lambda b, bars: np.log(b.c[-1] / b.c[-bars:].min()) / (b.sigma * np.sqrt(bars)),
    "max_drawdown": max_drawdown,
    "since_high": lambda b, bars: np.argmax(b.h[-bars:][::-1]) / (bars - 1),
    "since_low": lambda b, bars: np.argmin(b.l[-bars:][::-1]) / (bars - 1),
}


@pytest.mark.parametrize("feature", DISTRIBUTION, ids=ids)
def test_a_figure_of_the_distribution_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7, abs=1e-9)
