"""Channels and directional movement against Wilder's recipe and the others', bar by bar."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from levibot.features.channels import CHANNELS
from tests.levibot.features.one_symbol import OneSymbol, ids, wilder


def width(b: OneSymbol, bars: int) -> float:
    return float(np.log(b.h[-bars:].max() / b.l[-bars:].min()))


def true_ranges(b: OneSymbol, bars: int) -> float:
    top, bottom = np.maximum(b.h[1:], b.c[:-1]), np.minimum(b.l[1:], b.c[:-1])
    return float(np.log(top / bottom)[-bars:].sum())


def vortex(b: OneSymbol, bars: int) -> float:
    upward = np.abs(np.log(b.h[1:] / b.l[:-1]))[-bars:].sum()
    downward = np.abs(np.log(b.l[1:] / b.h[:-1]))[-bars:].sum()
    return (upward - downward) / true_ranges(b, bars)


def directions(b: OneSymbol, bars: int) -> tuple[np.ndarray, np.ndarray]:
    up, down = np.diff(b.h), -np.diff(b.l)
    plus = np.where((up > down) & (up > 0), up, 0.0)
    minus = np.where((down > up) & (down > 0), down, 0.0)
    return wilder(plus, bars), wilder(minus, bars)


def balance(b: OneSymbol, bars: int) -> np.ndarray:
    plus, minus = directions(b, bars)
    return (plus - minus) / np.maximum(plus + minus, 1e-12)


EXPECTED: dict[str, Callable[..., float]] = {
    "channel_width": lambda b, bars: width(b, bars) / (b.sigma * np.sqrt(bars)),
    "choppiness": lambda b, bars: np.log(true_ranges(b, bars) / width(b, bars)) / np.log(bars),
    "vortex": vortex,
    "adx": lambda b, bars: 100.0 * wilder(np.abs(balance(b, bars)), bars)[-1],
}


@pytest.mark.parametrize("feature", CHANNELS, ids=ids)
def test_a_channel_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-6, abs=1e-9)
