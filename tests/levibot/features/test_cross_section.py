"""The symbol among the others, against plain loops over a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from levibot.features.cross_section import CROSS_SECTION
from levibot.features.engine import compute
from levibot.features.rolling_cross import cross_rank
from levibot.features.view import FeatureView
from levibot.market.bars import FIELDS, FloatArray
from tests.levibot.features.one_symbol import OneSymbol, ids

Symbols = list[OneSymbol]


def scaled(symbols: Symbols, bars: int) -> FloatArray:
    return np.array([b.r[-bars:].sum() / (b.sigma * np.sqrt(bars)) for b in symbols])


def places(values: FloatArray) -> FloatArray:
    return np.array(
        [np.mean([other < own for j, other in enumerate(values) if j != i]) for i, own in enumerate(values)]
    )


def log_vol(symbols: Symbols, bars: int) -> FloatArray:
    return np.array([0.5 * np.log((b.r[-bars:] ** 2).mean()) for b in symbols])


def volume_change(symbols: Symbols, bars: int) -> FloatArray:
    return np.array([np.log(b.dollars[-bars:].mean() / b.dollars[-672:].mean()) for b in symbols])


def drawdowns(symbols: Symbols, bars: int) -> FloatArray:
    return np.array([(b.lc[-1] - b.lc[-bars:].max()) / (b.sigma * np.sqrt(bars)) for b in symbols])


def less_mean(values: FloatArray) -> FloatArray:
    return values - values.mean()


def everywhere(value: float) -> FloatArray:
    return np.full(3, value)


EXPECTED: dict[str, Callable[[Symbols, int], FloatArray]] = {
    "dispersion": lambda s, bars: everywhere(scaled(s, bars).std()),
    "relative_return": lambda s, bars: less_mean(scaled(s, bars)),
    "return_place": lambda s, bars: places(scaled(s, bars)),
    "breadth": lambda s, bars: everywhere(np.mean([b.c[-1] > b.c[-bars:].mean() for b in s])),
    "advance": lambda s, bars: everywhere(np.mean([np.sign(b.r[-bars:].sum()) for b in s])),
    "market_vol": lambda s, bars: everywhere(np.mean(log_vol(s, bars) - np.log([b.sigma for b in s]))),
    "relative_vol": lambda s, bars: less_mean(log_vol(s, bars)),
    "relative_volume": lambda s, bars: less_mean(volume_change(s, bars)),
    "market_drawdown": lambda s, bars: everywhere(drawdowns(s, bars).mean()),
}


@pytest.mark.parametrize("feature", CROSS_SECTION, ids=ids)
def test_a_place_is_its_definition(symbols, full_values, feature) -> None:
    expected = EXPECTED[feature.formula.__name__](symbols, int(dict(feature.parameters)["bars"]))
    np.testing.assert_allclose(full_values[feature.name][-1], expected, rtol=1e-8, atol=1e-10)


def test_equal_values_share_their_place() -> None:
    row = np.array([[1.0, 2.0, 2.0, 3.0]])
    np.testing.assert_allclose(cross_rank(row, np.ones((1, 4), dtype=bool)), [[0.0, 0.5, 0.5, 1.0]])


def test_who_has_no_bar_or_no_value_has_no_place_and_counts_for_nobody() -> None:
    row = np.array([[1.0, 2.0, np.nan, 3.0], [1.0, np.nan, np.nan, np.nan]])
    counted = np.array([[True, False, True, True], [True, True, True, True]])
    np.testing.assert_allclose(cross_rank(row, counted), [[0.0, np.nan, np.nan, 1.0], [np.nan] * 4])


def test_a_symbol_without_a_bar_is_not_in_the_cross_section(long_market, full_values) -> None:
    changed = {name: getattr(long_market, name).copy() for name in FIELDS}
    for field in changed.values():
        field[-1, 2] = np.nan
    view = FeatureView("places", tuple(f for f in CROSS_SECTION if f.name == "return_place_24"))
    newest = compute(view, replace(long_market, **changed))[-1, :, 0]
    own = full_values["return_24"][-1]
    first_is_lower = float(own[0] > own[1])
    np.testing.assert_allclose(newest, [first_is_lower, 1.0 - first_is_lower, np.nan])
