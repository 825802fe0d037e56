"""Oscillators against their inventors' recipes, bar by bar from the first one on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import talib

from levibot.features.engine import compute
from levibot.features.oscillators import OSCILLATORS, RSI
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ema, ids, wilder


def rsi_series(b: OneSymbol, bars: int) -> FloatArray:
    change = np.diff(b.c)
    rises, falls = wilder(np.maximum(change, 0.0), bars), wilder(np.maximum(-change, 0.0), bars)
    return 100.0 * rises / np.maximum(rises + falls, 1e-12)


def fast_k(b: OneSymbol, bars: int, ago: int) -> float:
    end = len(b.c) - ago
    top, bottom = b.h[end - bars : end].max(), b.l[end - bars : end].min()
    return float(100.0 * (b.c[end - 1] - bottom) / (top - bottom))


def slow_k(b: OneSymbol, bars: int, ago: int = 0) -> float:
    return sum(fast_k(b, bars, ago + i) for i in range(3)) / 3


def stochastic_signal(b: OneSymbol, bars: int) -> float:
    return slow_k(b, bars) - sum(slow_k(b, bars, i) for i in range(3)) / 3


def cci(b: OneSymbol, bars: int) -> float:
    typical = ((b.h + b.l + b.c) / 3)[-bars:]
    return float((typical[-1] - typical.mean()) / (0.015 * np.abs(typical - typical.mean()).mean()))


def money_flow(b: OneSymbol, bars: int) -> float:
    typical = (b.h + b.l + b.c) / 3
    side = np.sign(np.diff(typical))[-bars:]
    flow = (typical * b.v)[-bars:]
    return float(100.0 * flow[side > 0].sum() / flow[side != 0].sum())


def ultimate(b: OneSymbol) -> float:
    pressure = b.c[1:] - np.minimum(b.l[1:], b.c[:-1])
    share = {n: pressure[-n:].sum() / b.true_range[-n:].sum() for n in (7, 14, 28)}
    return float(100.0 * (4 * share[7] + 2 * share[14] + share[28]) / 7)


def trix(b: OneSymbol, bars: int) -> float:
    triple = ema(ema(ema(b.c, bars), bars), bars)
    return float((triple[-1] / triple[-2] - 1.0) / b.sigma)


def stochastic_rsi(b: OneSymbol, bars: int) -> float:
    window = rsi_series(b, bars)[-bars:]
    return float((window[-1] - window.min()) / np.ptp(window))


EXPECTED: dict[str, Callable[..., float]] = {
    "rsi": lambda b, bars: rsi_series(b, bars)[-1],
    "stochastic": slow_k,
    "stochastic_signal": stochastic_signal,
    "williams_r": lambda b, bars: fast_k(b, bars, 0) - 100.0,
    "cci": cci,
    "money_flow": money_flow,
    "ultimate": ultimate,
    "trix": trix,
    "stochastic_rsi": stochastic_rsi,
    "bull_power": lambda b: np.log(b.h[-1] / ema(b.c, 13)[-1]) / b.sigma,
    "bear_power": lambda b: np.log(b.l[-1] / ema(b.c, 13)[-1]) / b.sigma,
    "power_balance": lambda b, bars: np.log(b.c / b.o)[-bars:].sum() / np.log(b.h / b.l)[-bars:].sum(),
}


@pytest.mark.parametrize("feature", [*RSI, *OSCILLATORS], ids=ids)
def test_an_oscillator_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_librarys_rsi_is_the_worked_example_of_the_textbooks() -> None:
    # 14 changes of a price, rises of 3.34 and falls of 1.40 in sum: 100 · 3.34 / 4.74.
    closes = [44.34, 44.09, 44.15, 43.61, 44.33, 44.83, 45.10, 45.42]
    closes += [45.84, 46.08, 45.89, 46.03, 45.61, 46.28, 46.28]
    assert talib.RSI(np.array(closes), timeperiod=14)[-1] == pytest.approx(100 * 3.34 / 4.74)


def test_an_oscillator_of_a_standing_price_is_not_known(long_market) -> None:
    fields = {name: getattr(long_market, name).copy() for name in ("open", "high", "low", "close", "volume")}
    price = fields["close"][-301, 1]
    for name, field in fields.items():
        field[-300:, 1] = 0.0 if name == "volume" else price
    view = FeatureView("oscillators", (*RSI, *OSCILLATORS))
    newest = compute(view, replace(long_market, **fields))[-1]
    known = {name for name, value in zip(view.names, newest[1], strict=True) if np.isfinite(value)}
    # What compares a price with an average of it has an answer: no distance.
    assert known == {"trix_15", "bull_power", "bear_power"}
    assert np.isfinite(newest[0]).all()
