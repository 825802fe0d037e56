"""Liquidity measures against their papers' formulas, and spreads against a market with a known one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.microstructure import MICROSTRUCTURE
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ids


def mean_illiquidity(b: OneSymbol, bars: int) -> float:
    return float((np.abs(b.r[-bars:]) / b.dollars[-bars:]).mean())


def roll_spread(b: OneSymbol, bars: int) -> float:
    covariance = float((b.r[1:] * b.r[:-1])[-bars:].mean())
    return 2 * math.sqrt(max(-covariance, 0.0))


def corwin_schultz(b: OneSymbol, bars: int) -> float:
    def pair(row: int) -> float:
        beta = math.log(b.h[row] / b.l[row]) ** 2 + math.log(b.h[row - 1] / b.l[row - 1]) ** 2
        gamma = math.log(max(b.h[row], b.h[row - 1]) / min(b.l[row], b.l[row - 1])) ** 2
        root = 3 - 2 * math.sqrt(2)
        alpha = (math.sqrt(2 * beta) - math.sqrt(beta)) / root - math.sqrt(gamma / root)
        return max(2 * (math.exp(alpha) - 1) / (1 + math.exp(alpha)), 0.0)

    return float(np.mean([pair(row) for row in range(-bars, 0)]))


def abdi_ranaldo(b: OneSymbol, bars: int) -> float:
    middle = (np.log(b.h) + np.log(b.l)) / 2

    def pair(row: int) -> float:
        before = b.lc[row - 1]
        return math.sqrt(max(4 * (before - middle[row - 1]) * (before - middle[row]), 0.0))

    return float(np.mean([pair(row) for row in range(-bars, 0)]))


def signed(b: OneSymbol) -> FloatArray:
    return np.sign(b.r) * b.dollars[1:]


def kyle_lambda(b: OneSymbol, bars: int) -> float:
    slope = np.polyfit(signed(b)[-bars:], b.r[-bars:], 1)[0]
    return float(slope * b.dollars[-bars:].mean() / b.sigma)


def bulk(b: OneSymbol, bars: int) -> FloatArray:
    rows = range(len(b.r) - bars, len(b.r))
    scores = [b.r[i] / math.sqrt((b.r[i - 23 : i + 1] ** 2).mean()) for i in rows]
    return np.array([math.erf(score / math.sqrt(2)) for score in scores]) * b.dollars[-bars:]


EXPECTED: dict[str, Callable[..., float]] = {
    "amihud_ratio": lambda b, bars, past_bars: np.log(
        mean_illiquidity(b, bars) / mean_illiquidity(b, past_bars)
    ),
    "roll_spread": roll_spread,
    "corwin_schultz": corwin_schultz,
    "abdi_ranaldo": abdi_ranaldo,
    "kyle_lambda": kyle_lambda,
    "impact_correlation": lambda b, bars: np.corrcoef(signed(b)[-bars:], b.r[-bars:])[0, 1],
    "flow_reversal": lambda b, bars: np.corrcoef(signed(b)[-bars - 1 : -1], b.r[-bars:])[0, 1],
    "zero_returns": lambda b, bars: (b.r[-bars:] == 0.0).mean(),
    "vpin": lambda b, bars: np.abs(bulk(b, bars)).sum() / b.dollars[-bars:].sum(),
    "bulk_flow": lambda b, bars: bulk(b, bars).sum() / b.dollars[-bars:].sum(),
}


@pytest.mark.parametrize("feature", MICROSTRUCTURE, ids=ids)
def test_a_liquidity_measure_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7, abs=1e-10)


def test_a_bar_without_trade_is_no_bar_of_amihuds_mean(long_market, symbols) -> None:
    volume = long_market.volume.copy()
    volume[-3, 0] = 0.0
    traded = np.arange(-24, 0) != -3
    r, dollars = symbols[0].r, symbols[0].dollars
    recent = (np.abs(r[-24:]) / dollars[-24:])[traded].mean()
    past = (np.abs(r[-168:]) / dollars[-168:])[np.arange(-168, 0) != -3].mean()
    view = FeatureView("amihud", tuple(f for f in MICROSTRUCTURE if f.name == "amihud_ratio_24_168"))
    value = compute(view, replace(long_market, volume=volume))[-1, 0, 0]
    assert value == pytest.approx(np.log(recent / past))


def test_the_share_of_standing_bars_is_counted(long_market) -> None:
    close = long_market.close.copy()
    close[-10:, 0] = close[-11, 0]
    view = FeatureView("zero", tuple(f for f in MICROSTRUCTURE if f.name == "zero_returns_168"))
    value = compute(view, replace(long_market, close=close, high=np.maximum(long_market.high, close)))
    assert value[-1, 0, 0] == pytest.approx(10 / 168)


def test_rolls_spread_is_that_of_trades_that_bounce_between_bid_and_ask(long_market) -> None:
    rng = np.random.default_rng(8)
    shape, spread = long_market.close.shape, 0.01
    middle = np.cumsum(rng.normal(0.0, 0.001, shape), axis=0)
    close = np.exp(middle + spread / 2 * rng.choice([-1.0, 1.0], shape))
    bounced = replace(long_market, open=close, high=close, low=close, close=close)
    view = FeatureView("roll", tuple(f for f in MICROSTRUCTURE if f.name == "roll_spread_168"))
    assert np.nanmean(compute(view, bounced)) == pytest.approx(spread, rel=0.05)
