"""Volume and flow against the definitions over one symbol; what hours without trade leave known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.flow import FLOW
from levibot.features.view import FeatureView
from tests.levibot.features.one_symbol import OneSymbol, ids


def chaikin_flow(b: OneSymbol, bars: int) -> float:
    place = (2 * b.c - b.h - b.l) / (b.h - b.l)
    return float((place * b.dollars)[-bars:].sum() / b.dollars[-bars:].sum())


def signed_volume(b: OneSymbol, bars: int) -> float:
    return float((np.sign(b.r) * b.dollars[1:])[-bars:].sum() / b.dollars[-bars:].sum())


def vwap_gap(b: OneSymbol, bars: int) -> float:
    average = np.average(b.c[-bars:], weights=b.v[-bars:])
    return float(np.log(b.c[-1] / average) / (b.sigma * np.sqrt(bars)))


def volume_slope(b: OneSymbol, bars: int) -> float:
    window = b.dollars[-bars:]
    return float(np.polyfit(np.arange(bars), window, 1)[0] * bars / window.mean())


def same_hour_volume(b: OneSymbol, days: int) -> float:
    past = np.mean([b.dollars[-1 - 24 * day] for day in range(1, days + 1)])
    return float(np.log(b.dollars[-1] / past))


def beside_volume(b: OneSymbol, bars: int, side: int) -> float:
    chosen = np.sign(np.diff(b.v))[-bars:] == side
    return float(b.r[-bars:][chosen].sum() / (b.sigma * np.sqrt(bars)))


EXPECTED: dict[str, Callable[..., float]] = {
    "chaikin_flow": chaikin_flow,
    "signed_volume": signed_volume,
    "vwap_gap": vwap_gap,
    "force": lambda b, bars: np.average(b.r[-bars:], weights=b.dollars[-bars:]) / b.sigma,
    "volume_score": lambda b, bars: (b.dollars[-1] - b.dollars[-bars:].mean()) / b.dollars[-bars:].std(),
    "volume_variation": lambda b, bars: b.dollars[-bars:].std() / b.dollars[-bars:].mean(),
    "volume_slope": volume_slope,
    "price_volume_correlation": lambda b, bars: np.corrcoef(b.r[-bars:], b.dollars[-bars:])[0, 1],
    "move_volume_correlation": lambda b, bars: np.corrcoef(np.abs(b.r[-bars:]), b.dollars[-bars:])[0, 1],
    "quiet_return": lambda b, bars: beside_volume(b, bars, -1),
    "loud_return": lambda b, bars: beside_volume(b, bars, 1),
    "volume_momentum": lambda b, bars: np.log(b.dollars[-bars:].sum() / b.dollars[-2 * bars : -bars].sum()),
    "same_hour_volume": same_hour_volume,
}


@pytest.mark.parametrize("feature", FLOW, ids=ids)
def test_a_flow_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_a_window_without_trade_has_no_flow(long_market) -> None:
    volume = long_market.volume.copy()
    volume[-24:, 1] = 0.0
    view = FeatureView("flow", FLOW)
    newest = compute(view, replace(long_market, volume=volume))[-1, 1]
    unknown = {name for name, value in zip(view.names, newest, strict=True) if np.isnan(value)}
    assert unknown == {
        "chaikin_flow_24",
        "vwap_gap_24",
        "force_24",
        "volume_score_24",
        "volume_momentum_24",
        "same_hour_volume_7",
    }


def test_a_bar_without_range_adds_volume_and_no_flow(long_market, symbols) -> None:
    high, low = long_market.high.copy(), long_market.low.copy()
    high[-5, 0] = low[-5, 0] = long_market.close[-5, 0]
    flat = replace(symbols[0], h=high[:, 0], l=low[:, 0])
    place = np.zeros(24)
    moved = flat.h[-24:] > flat.l[-24:]
    place[moved] = ((2 * flat.c - flat.h - flat.l)[-24:] / np.where(moved, flat.h[-24:] - flat.l[-24:], 1.0))[
        moved
    ]
    expected = (place * flat.dollars[-24:]).sum() / flat.dollars[-24:].sum()
    view = FeatureView("flow", tuple(f for f in FLOW if f.name == "chaikin_flow_24"))
    assert compute(view, replace(long_market, high=high, low=low))[-1, 0, 0] == pytest.approx(expected)
