"""What returns remember, against the definitions, and on series whose memory is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.memory import MEMORY
from levibot.features.view import FeatureView
from levibot.market.bars import FloatArray, Panel
from tests.levibot.features.one_symbol import OneSymbol, ids


def autocorrelation(b: OneSymbol, lag_bars: int, bars: int) -> float:
    now, before = b.r[-bars:], b.r[-bars - lag_bars : -lag_bars]
    return float(2 * (now @ before) / (now @ now + before @ before))


def sign_persistence(b: OneSymbol, bars: int) -> float:
    sides = np.sign(b.r[-bars - 1 :])
    pairs = [a * c for a, c in pairwise(sides)]
    return float((pairs.count(1.0) - pairs.count(-1.0)) / bars)


def variance_ratio(b: OneSymbol, scale_bars: int, bars: int) -> float:
    moves = (b.lc[scale_bars:] - b.lc[:-scale_bars])[-bars:]
    return float((moves @ moves) / (scale_bars * (b.r[-bars:] @ b.r[-bars:])))


def hurst(b: OneSymbol, bars: int) -> float:
    scales = (1, 3, 9, 27)
    sizes = [np.abs((b.lc[q:] - b.lc[:-q])[-bars:]).mean() for q in scales]
    return float(np.polyfit(np.log(scales), np.log(sizes), 1)[0])


def entropy(words: list[tuple[int, ...]], kinds: int) -> float:
    shares = [words.count(word) / len(words) for word in set(words)]
    return -sum(share * math.log(share) for share in shares) / math.log(kinds)


def words_of(series: FloatArray, bars: int) -> list[FloatArray]:
    window = series[-bars - 2 :]
    return [window[i : i + 3] for i in range(bars)]


EXPECTED: dict[str, Callable[..., float]] = {
    "autocorrelation": autocorrelation,
    "sign_persistence": sign_persistence,
    "variance_ratio": variance_ratio,
    "hurst": hurst,
    "price_entropy": lambda b, bars: entropy([tuple(np.argsort(w)) for w in words_of(b.c, bars)], 6),
    "direction_entropy": lambda b, bars: entropy([tuple(w > 0) for w in words_of(b.r, bars)], 8),
}


@pytest.mark.parametrize("feature", MEMORY, ids=ids)
def test_a_memory_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7, abs=1e-9)


def walk(panel: Panel, memory: float) -> Panel:
    """Prices whose returns follow r = memory · r[-1] + noise."""
    rng = np.random.default_rng(4)
    steps = rng.normal(0.0, 0.01, panel.close.shape)
    for row in range(1, len(steps)):
        steps[row] += memory * steps[row - 1]
    close = np.exp(np.cumsum(steps, axis=0))
    return replace(panel, open=close, high=close, low=close, close=close)


@pytest.mark.parametrize(("memory", "sign"), [(-0.5, -1.0), (0.5, 1.0)])
def test_trending_and_reverting_returns_are_told_apart(long_market, memory, sign) -> None:
    view = FeatureView("memory", MEMORY)
    mean = np.nanmean(compute(view, walk(long_market, memory)), axis=(0, 1))
    value = dict(zip(view.names, mean, strict=True))
    assert value["autocorrelation_1_168"] == pytest.approx(memory, abs=0.05)
    assert sign * (value["variance_ratio_8_168"] - 1.0) > 0.2
    assert sign * (value["hurst_168"] - 0.5) > 0.05
    assert sign * value["sign_persistence_168"] > 0.2


def test_a_walk_without_memory_shows_none(long_market) -> None:
    view = FeatureView("memory", MEMORY)
    mean = np.nanmean(compute(view, walk(long_market, 0.0)), axis=(0, 1))
    value = dict(zip(view.names, mean, strict=True))
    assert value["autocorrelation_1_168"] == pytest.approx(0.0, abs=0.05)
    assert value["variance_ratio_8_168"] == pytest.approx(1.0, abs=0.1)
    assert value["hurst_168"] == pytest.approx(0.5, abs=0.03)
    assert value["direction_entropy_168"] > 0.95
