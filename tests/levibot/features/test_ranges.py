"""Range estimators against their papers' formulas, and against a market whose volatility is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.ranges import RANGES
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ids, wilder

YEAR = 8760


def garman_klass_variance(b: OneSymbol, bars: int) -> float:
    body, high_low = np.log(b.c / b.o), np.log(b.h / b.l)
    return float((0.5 * high_low**2 - (2 * np.log(2) - 1) * body**2)[-bars:].mean())


def rogers_satchell_terms(b: OneSymbol) -> FloatArray:
    up, down, body = np.log(b.h / b.o), np.log(b.l / b.o), np.log(b.c / b.o)
    return up * (up - body) + down * (down - body)


def yang_zhang(b: OneSymbol, bars: int) -> float:
    jumps, bodies = np.log(b.o[1:] / b.c[:-1])[-bars:], np.log(b.c / b.o)[-bars:]
    k = 0.34 / (1.34 + (bars + 1) / (bars - 1))
    within = rogers_satchell_terms(b)[-bars:].mean()
    return float(np.sqrt((jumps.var(ddof=1) + k * bodies.var(ddof=1) + (1 - k) * within) * YEAR))


EXPECTED: dict[str, Callable[..., float]] = {
    "parkinson": lambda b, bars: np.sqrt((np.log(b.h / b.l)[-bars:] ** 2).mean() / (4 * np.log(2)) * YEAR),
    "garman_klass": lambda b, bars: np.sqrt(garman_klass_variance(b, bars) * YEAR),
    "garman_klass_ratio": lambda b, bars: (
        0.5 * np.log(garman_klass_variance(b, bars) / (b.r[-bars:] ** 2).mean())
    ),
    "rogers_satchell": lambda b, bars: np.sqrt(rogers_satchell_terms(b)[-bars:].mean() * YEAR),
    "yang_zhang": yang_zhang,
    "true_range_share": lambda b, bars: 100.0 * wilder(b.true_range, bars)[-1] / b.c[-1],
    "range_expansion": lambda b, bars: np.log(b.h / b.l)[-1] / np.log(b.h / b.l)[-bars:].mean(),
}


@pytest.mark.parametrize("feature", RANGES, ids=ids)
def test_a_range_estimator_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    "name", ["garman_klass_168", "rogers_satchell_168", "yang_zhang_24", "parkinson_168"]
)
def test_a_walk_of_known_volatility_is_measured_within_a_few_percent(long_market, name) -> None:
    rng = np.random.default_rng(3)
    steps_a_bar, sigma = 400, 0.01
    rows, symbols = long_market.close.shape
    path = np.cumsum(rng.normal(0.0, sigma / np.sqrt(steps_a_bar), (rows * steps_a_bar, symbols)), axis=0)
    bars = np.exp(path).reshape(rows, steps_a_bar, symbols)
    walk = replace(
        long_market, open=bars[:, 0], high=bars.max(axis=1), low=bars.min(axis=1), close=bars[:, -1]
    )
    view = FeatureView("ranges", tuple(f for f in RANGES if f.name == name))
    measured = np.nanmean(compute(view, walk))
    # Ranges of 400 steps are a little narrower than those of a continuous path.
    assert measured == pytest.approx(sigma * np.sqrt(YEAR), rel=0.06)
