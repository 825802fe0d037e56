"""Our backtest against the plain statement of the convention, to 1e-9."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.market.bars import FloatArray
from levibot.trading.backtest import START_EQUITY, decided_at_close, simulate
from levibot.trading.costs import Costs

FEE = 0.001
T, S = 3_000, 5


def convention(target: FloatArray, price: FloatArray, close: FloatArray, fee: float = FEE) -> float:
    """Final equity of one account in one symbol."""
    cash, units = 1_000_000.0, 0.0
    for t in range(len(price)):
        if np.isnan(target[t]):
            continue
        value = cash + units * price[t]
        order = target[t] * value / price[t] - units
        if order > 0 and order * price[t] * (1 + fee) > cash:
            order = cash / (price[t] * (1 + fee))
        cash -= order * price[t] + abs(order) * price[t] * fee
        units += order
    return cash + units * close[-1]


def shared_convention(target: FloatArray, price: FloatArray, close: FloatArray) -> float:
    """Final equity of one account in several symbols: equity once a bar, sells before buys."""
    cash, units = 1_000_000.0, np.zeros(target.shape[1])
    for t in range(len(price)):
        value = cash + float(units @ price[t])
        orders = np.where(np.isnan(target[t]), 0.0, target[t] * value / price[t] - units)
        for s in sorted(range(len(units)), key=lambda s: orders[s] > 0):
            order = orders[s]
            if order > 0 and order * price[t, s] * (1 + FEE) > cash:
                order = cash / (price[t, s] * (1 + FEE))
            cash -= order * price[t, s] + abs(order) * price[t, s] * FEE
            units[s] += order
    return cash + float(units @ close[-1])


@pytest.fixture(scope="module")
def market() -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(7)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (T, S)), axis=0))
    opened = np.vstack([np.full((1, S), 100.0), close[:-1]]) * np.exp(rng.normal(0.0, 0.001, (T, S)))
    return opened, close


@pytest.fixture(params=[(-0.5, 0.0, 0.5), (0.0, 0.4, 1.0)], ids=["long-short", "fully invested"])
def dense(request: pytest.FixtureRequest) -> FloatArray:
    rng = np.random.default_rng(11)
    drawn = rng.choice(request.param, (T, S))
    redrawn = rng.random((T, S)) < 1 / 50
    redrawn[0] = True
    rows = np.maximum.accumulate(np.where(redrawn, np.arange(T)[:, None], 0), axis=0)
    return np.take_along_axis(drawn, rows, axis=0)


def sparse(targets: FloatArray) -> FloatArray:
    kept = targets.copy()
    kept[1:][targets[1:] == targets[:-1]] = np.nan
    return kept


@pytest.mark.parametrize("density", ["dense", "sparse"])
@pytest.mark.parametrize("convention_of_fill", ["same close", "next open"])
def test_final_equity_is_that_of_the_convention(
    market: tuple[FloatArray, FloatArray], dense: FloatArray, density: str, convention_of_fill: str
) -> None:
    opened, close = market
    targets = sparse(dense) if density == "sparse" else dense
    fill = close
    if convention_of_fill == "next open":
        targets, fill = decided_at_close(targets), opened
    for s in range(S):
        column = slice(s, s + 1)
        ours = simulate(targets[:, column], fill[:, column], close[:, column], Costs(10.0, 0.0)).equity[-1]
        assert ours == pytest.approx(convention(targets[:, s], fill[:, s], close[:, s]), rel=1e-9)


@pytest.mark.parametrize("density", ["dense", "sparse"])
def test_shared_cash_is_that_of_the_convention(
    market: tuple[FloatArray, FloatArray], dense: FloatArray, density: str
) -> None:
    _, close = market
    targets = (sparse(dense) if density == "sparse" else dense) / S
    ours = simulate(targets, close, close, Costs(10.0, 0.0)).equity[-1]
    assert ours == pytest.approx(shared_convention(targets, close, close), rel=1e-9)


def test_a_wrong_fee_would_be_seen(market: tuple[FloatArray, FloatArray], dense: FloatArray) -> None:
    _, close = market
    ours = simulate(dense[:, :1], close[:, :1], close[:, :1], Costs(10.0, 0.0)).equity[-1]
    other = convention(dense[:, 0], close[:, 0], close[:, 0], fee=FEE * (1 + 1e-4))
    assert ours != pytest.approx(other, rel=1e-9)


def test_the_account_opens_with_the_convention_s_million() -> None:
    assert START_EQUITY == 1_000_000.0
