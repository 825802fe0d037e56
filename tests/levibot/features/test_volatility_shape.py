"""How volatility moves, against the definitions over one symbol."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from levibot.features.volatility_shape import VOLATILITY_SHAPE
from tests.levibot.features.one_symbol import OneSymbol, ids


def rms(b: OneSymbol, bars: int, ago: int = 0) -> float:
    end = len(b.r) - ago
    return float(np.sqrt((b.r[end - bars : end] ** 2).mean()))


def ewma_ratio(b: OneSymbol, bars: int) -> float:
    newest_first = b.r[::-1][: 10 * bars]
    weights = 0.5 ** (np.arange(10 * bars) / bars)
    return float(np.log(np.sqrt(weights @ newest_first**2 / weights.sum()) / b.sigma))


def jump_share(b: OneSymbol, bars: int) -> float:
    size = np.abs(b.r)
    return float(1 - np.pi / 2 * (size[1:] * size[:-1])[-bars:].sum() / (b.r[-bars:] ** 2).sum())


def ulcer(b: OneSymbol, bars: int) -> float:
    falls = [b.lc[i - bars + 1 : i + 1].max() - b.lc[i] for i in range(len(b.lc) - bars, len(b.lc))]
    return float(np.sqrt(np.mean(np.square(falls))) / (b.sigma * np.sqrt(bars)))


EXPECTED: dict[str, Callable[..., float]] = {
    "vol": lambda b, bars: rms(b, bars) * np.sqrt(8760),
    "vol_ratio": lambda b, bars: np.log(rms(b, bars) / b.sigma),
    "vol_change": lambda b, bars, past_bars: np.log(rms(b, bars) / rms(b, past_bars)),
    "ewma_ratio": ewma_ratio,
    "vol_of_vol": lambda b, bars: np.std([np.log(rms(b, 24, ago)) for ago in range(bars)]),
    "downside_share": lambda b, bars: (np.minimum(b.r[-bars:], 0) ** 2).sum() / (b.r[-bars:] ** 2).sum(),
    "jump_share": jump_share,
    "bollinger_width": lambda b, bars: np.log(b.lc[-bars:].std() / (b.sigma * np.sqrt(bars))),
    "max_return": lambda b, bars: b.r[-bars:].max() / b.sigma,
    "min_return": lambda b, bars: b.r[-bars:].min() / b.sigma,
    "ulcer": ulcer,
    "leverage": lambda b, bars: np.corrcoef(b.r[-bars - 1 : -1], b.r[-bars:] ** 2)[0, 1],
    "vol_clustering": lambda b, bars: np.corrcoef(np.abs(b.r)[-bars - 1 : -1], np.abs(b.r)[-bars:])[0, 1],
}


@pytest.mark.parametrize("feature", VOLATILITY_SHAPE, ids=ids)
def test_a_shape_of_volatility_is_its_definition(symbols, full_values, feature) -> None:
    for symbol, alone in enumerate(symbols):
        expected = EXPECTED[feature.formula.__name__](alone, **dict(feature.parameters))
        assert full_values[feature.name][-1, symbol] == pytest.approx(expected, rel=1e-7, abs=1e-9)
