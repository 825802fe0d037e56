"""How much a strategy can trade, and its figures cut into years and regimes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import FloatArray, Panel
from levibot.trading.backtest import simulate
from levibot.trading.capacity import capacity
from levibot.trading.conditions import Conditions
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.liquidity import trailing_liquidity
from levibot.trading.metrics import daily_returns, sharpe
from levibot.trading.slices import by_regime, by_year
from levibot.trading.tape import Tape

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def panel() -> Panel:
    rng = np.random.default_rng(5)
    close = np.exp(np.cumsum(rng.normal(0.0005, 0.01, (24 * 90, 1)), axis=0))
    ts = np.datetime64("2023-12-01", "us") + np.arange(len(close)) * np.timedelta64(HOUR)
    return Panel(("A",), HOUR, ts, close, close, close, close, np.full(close.shape, 1e6))


@pytest.fixture(scope="module")
def ordered(panel: Panel) -> FloatArray:
    return np.where(np.arange(len(panel)) // 12 % 2 == 0, 0.8, 0.2)[:, None]


def tape(panel: Panel, costs: Costs) -> Tape:
    return Tape.of(panel, slice(None), Conditions(costs))


def test_at_capacity_impact_has_halved_the_net_sharpe_ratio(panel: Panel, ordered: FloatArray) -> None:
    costs = Costs(1.0, 0.0, impact_bps=10.0)
    found = capacity(tape(panel, costs), ordered, band=0.0)
    ratios = []
    for paid in (costs, replace(costs, impact_bps=0.0)):
        account = simulate(
            *(ordered, panel.open, panel.close, paid),
            liquidity=trailing_liquidity(panel),
            start_equity=found,
        )
        ratios.append(sharpe(daily_returns(panel.closes_at, account.equity, found)))
    assert ratios[0] == pytest.approx(0.5 * ratios[1], rel=0.03)


def test_ten_times_the_volume_is_ten_times_the_capacity(panel: Panel, ordered: FloatArray) -> None:
    larger = replace(panel, volume=10.0 * panel.volume)
    small, large = (capacity(tape(p, NO_COSTS), ordered, band=0.0) for p in (panel, larger))
    assert large == pytest.approx(10.0 * small, rel=0.05)


def test_what_earns_nothing_has_no_capacity(panel: Panel, ordered: FloatArray) -> None:
    assert np.isnan(capacity(tape(panel, NO_COSTS), -ordered, band=0.0))
    assert np.isnan(capacity(tape(panel, NO_COSTS), np.zeros_like(ordered), band=0.0))
    untraded = replace(panel, volume=np.zeros_like(panel.volume))
    assert np.isnan(capacity(tape(untraded, NO_COSTS), ordered, band=0.0))


def test_years_are_the_days_of_their_calendar() -> None:
    day = np.datetime64("2023-12-30") + np.arange(4)
    years = by_year(day, np.array([0.10, -0.50, 0.20, 0.20]))
    assert list(years) == ["2023", "2024"]
    assert (years["2023"].days, years["2024"].days) == (2, 2)
    assert years["2023"].total_return == pytest.approx(1.1 * 0.5 - 1.0)
    assert years["2023"].max_drawdown == pytest.approx(-0.5)
    assert years["2024"].to_json()["sharpe_net"] is None


def test_a_day_belongs_to_the_regime_that_was_known_before_it_began() -> None:
    ends = np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.6, 0.4]])
    found = by_regime(np.array([0.5, 0.1, 0.2, 0.3]), ends, ("bear", "bull"))
    assert {name: of.days for name, of in found.items()} == {"bear": 1, "bull": 2}
    assert found["bear"].total_return == pytest.approx(0.1)
    assert by_regime(np.array([0.1]), np.array([[0.5, 0.5]]), ("bear", "bull")) == {}
    with pytest.raises(DataError, match="1 days and 2 regimes"):
        by_regime(np.array([0.1]), ends, ("bear", "bull"))
