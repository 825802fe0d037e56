"""Market, leader, relative returns and breadth: who is counted, and who leads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.market.bars import FIELDS, Panel


def without_bar(panel: Panel, row: int, symbol: int) -> Panel:
    changed = {name: getattr(panel, name).copy() for name in FIELDS}
    for field in changed.values():
        field[row, symbol] = np.nan
    return replace(panel, **changed)


@pytest.mark.parametrize("bars", [8, 24])
def test_the_market_is_the_mean_of_its_symbols(core_values, bars) -> None:
    own = core_values[f"return_{bars}"][-1]
    np.testing.assert_allclose(core_values[f"market_return_{bars}"][-1], [sum(own) / 3] * 3)


@pytest.mark.parametrize("bars", [24, 72])
def test_relative_returns_are_what_is_left_of_the_market(core_values, bars) -> None:
    own = core_values[f"return_{bars}"][-1]
    np.testing.assert_allclose(core_values[f"relative_return_{bars}"][-1], own - sum(own) / 3)


@pytest.mark.parametrize("bars", [1, 8])
def test_btc_leads_wherever_it_stands(small_market, core_values, bars) -> None:
    renamed = replace(small_market, symbols=("ETHUSDT", "BTCUSDT", "ADAUSDT"))
    values = compute(CORE, renamed)[-1, :, CORE.index(f"leader_return_{bars}")]
    np.testing.assert_array_equal(values, [core_values[f"return_{bars}"][-1, 1]] * 3)


def test_without_btc_the_first_symbol_leads(small_market, core_values) -> None:
    renamed = replace(small_market, symbols=("ETHUSDT", "SOLUSDT", "ADAUSDT"))
    values = compute(CORE, renamed)[-1, :, CORE.index("leader_return_8")]
    np.testing.assert_array_equal(values, [core_values["return_8"][-1, 0]] * 3)


def test_a_symbol_without_a_bar_is_not_in_the_mean(small_market, core_values) -> None:
    values = compute(CORE, without_bar(small_market, -1, 2))[-1, :, CORE.index("market_return_8")]
    own = core_values["return_8"][-1]
    np.testing.assert_allclose(values, [(own[0] + own[1]) / 2, (own[0] + own[1]) / 2, np.nan])


def test_breadth_counts_the_symbols_above_their_average(small_market, core_values) -> None:
    above = [small_market.close[-1, s] > small_market.close[-168:, s].mean() for s in range(3)]
    assert core_values["breadth_168"][-1, 0] == pytest.approx(sum(above) / 3)


def test_a_price_that_stands_is_not_above_its_average(small_market) -> None:
    close = small_market.close.copy()
    close[-300:, 1] = 0.1
    still = replace(small_market, open=close, high=close, low=close, close=close)
    others = [close[-1, s] > close[-168:, s].mean() for s in (0, 2)]
    values = compute(CORE, still)[-100:, 0, CORE.index("breadth_168")]
    assert values[-1] == pytest.approx(sum(others) / 3)
