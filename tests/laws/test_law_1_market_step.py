"""Law 1: one market step. Nothing else fills or charges, cost never helps, a flat position earns nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from levibot.market.bars import FloatArray
from levibot.trading.backtest import BacktestResult, simulate
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.market_step import Account, Flows, market_step, step_account

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("levibot", "actors", "deployments", "tune", "rl")
# The step itself, what states its rates, and what it is held against.
ALLOWED = {"levibot/trading/market_step.py", "levibot/trading/costs.py"}

T, S = 12, 2
RETURNS = hnp.arrays(np.float64, (T, S), elements=st.floats(-0.1, 0.1))
TARGETS = hnp.arrays(np.float64, (T, S), elements=st.one_of(st.just(np.nan), st.floats(-0.5, 0.5)))
BPS = st.floats(0.0, 50.0)


def prices(returns: FloatArray) -> FloatArray:
    return 100.0 * np.cumprod(1.0 + returns, axis=0)


def run(targets: FloatArray, price: FloatArray, costs: Costs) -> BacktestResult:
    return simulate(targets, price, price, costs)


def worst_gain_from_cost(low: FloatArray, high: FloatArray) -> float:
    """How much more equity the dearer run ever has, as a fraction; <= 0 when the law holds."""
    return float(np.max(high / low - 1.0))


@settings(deadline=None, max_examples=60)
@given(targets=TARGETS, returns=RETURNS, cheap=BPS, extra=BPS, is_fee=st.booleans())
def test_higher_cost_never_raises_profit(
    targets: FloatArray, returns: FloatArray, cheap: float, extra: float, is_fee: bool
) -> None:
    price = prices(returns)
    dear = Costs(cheap + extra, cheap) if is_fee else Costs(cheap, cheap + extra)
    low, high = run(targets, price, Costs(cheap, cheap)), run(targets, price, dear)
    assert worst_gain_from_cost(low.equity, high.equity) <= 1e-12


def test_a_negative_fee_would_be_seen() -> None:
    """The planted fault: a fee below zero, which `Costs` refuses, given to the kernel itself."""
    price, target = np.array([100.0]), np.array([0.5])

    def equity(fee_rate: float) -> float:
        state = np.zeros(1), np.full(1, np.nan), np.zeros(1)
        flows = step_account(*state, 1e6, target, price, price, fee_rate, 0.0, np.zeros(1), True)
        return float(Flows(*flows).equity)

    assert worst_gain_from_cost(np.array([equity(0.0)]), np.array([equity(-0.001)])) > 1e-12
    assert worst_gain_from_cost(np.array([equity(0.0)]), np.array([equity(0.001)])) < 0.0


@settings(deadline=None, max_examples=30)
@given(returns=RETURNS, fee=BPS, slippage=BPS, is_missing=st.booleans())
def test_a_flat_position_earns_exactly_zero(
    returns: FloatArray, fee: float, slippage: float, is_missing: bool
) -> None:
    targets = np.full((T, S), np.nan if is_missing else 0.0)
    funding = np.full((T, S), 0.01)
    price = prices(returns)
    result = simulate(targets, price, price, Costs(fee, slippage), funding_rate=funding)
    assert (result.equity == result.start_equity).all()
    assert result.turnover.sum() == result.fees.sum() == result.funding.sum() == 0.0


@settings(deadline=None, max_examples=60)
@given(
    targets=TARGETS,
    returns=RETURNS,
    gaps=hnp.arrays(np.bool_, (T, S)),
    rates=hnp.arrays(np.float64, (T, S), elements=st.floats(-0.001, 0.001)),
    fee=BPS,
    slippage=BPS,
)
def test_equity_changes_by_price_moves_less_what_was_paid(
    targets: FloatArray, returns: FloatArray, gaps: FloatArray, rates: FloatArray, fee: float, slippage: float
) -> None:
    """Units times the price move, less fees, slippage and funding, is the change of equity."""
    mark = prices(returns)
    fill = np.where(gaps, np.nan, mark * 1.001)
    account = Account.opened(S, 1e6)
    for t in range(T):
        before = account
        known = np.where(np.isnan(before.last_price), fill[t], before.last_price)
        account, flows, orders = market_step(
            before, targets[t], fill=fill[t], mark=mark[t], costs=Costs(fee, slippage), funding_rate=rates[t]
        )
        held = np.where(before.units == 0.0, 0.0, before.units * (mark[t] - known)).sum()
        traded = np.where(orders == 0.0, 0.0, orders * (mark[t] - fill[t])).sum()
        paid = flows.fees + flows.slippage + flows.funding
        assert account.equity - before.equity == pytest.approx(held + traded - paid, abs=1e-6)
        assert account.equity == pytest.approx(account.cash + np.nansum(account.units * mark[t]), abs=1e-6)


def test_the_backtest_and_single_steps_are_one_engine() -> None:
    rng = np.random.default_rng(5)
    mark = prices(rng.normal(0, 0.02, (200, 3)))
    fill = mark * np.exp(rng.normal(0, 0.002, mark.shape))
    fill[rng.random(mark.shape) < 0.05] = np.nan
    targets = rng.choice([-0.3, 0.0, 0.3, np.nan], mark.shape)
    result = simulate(targets, fill, mark, Costs())
    account = Account.opened(3, result.start_equity)
    for t in range(len(mark)):
        account, flows, _ = market_step(account, targets[t], fill=fill[t], mark=mark[t], costs=Costs())
        assert flows.equity == result.equity[t]
        assert account.weights().tolist() == result.weights[t].tolist()


def arithmetic_of_a_market_step(source: str) -> list[int]:
    """Lines that calculate with a fee, a slippage or a number of units: what only the market step may do."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        operands: list[ast.expr] = []
        if isinstance(node, ast.BinOp):
            operands = [node.left, node.right]
        elif isinstance(node, ast.AugAssign):
            operands = [node.target, node.value]
        if any(_is_of_a_step(operand) for operand in operands):
            lines.append(node.lineno)
    return lines


def _is_of_a_step(operand: ast.expr) -> bool:
    while isinstance(operand, ast.Subscript):
        operand = operand.value
    name = operand.attr if isinstance(operand, ast.Attribute) else getattr(operand, "id", "")
    words = set(name.split("_"))
    return bool(words & {"fee", "fees", "slippage", "commission"}) or name == "units"


def test_no_other_module_computes_fills_or_fees() -> None:
    found = {
        f"{path}:{line}"
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        if (path := file.relative_to(ROOT).as_posix()) not in ALLOWED
        for line in arithmetic_of_a_market_step(file.read_text())
    }
    assert found == set()


@pytest.mark.parametrize(
    "planted",
    [
        "pnl = position * move - abs(change) * fee_rate",
        "cash -= notional * costs.fee_rate",
        "fill = price * (1 + slippage_rate)",
        "equity = cash + units[s] * price[s]",
        "value = account.units * mark",
    ],
)
def test_a_second_cost_formula_would_be_seen(planted: str) -> None:
    assert arithmetic_of_a_market_step(planted) == [1]


def test_the_market_step_itself_is_such_arithmetic() -> None:
    for path in ALLOWED:
        assert arithmetic_of_a_market_step((ROOT / path).read_text())


def test_costs_are_the_only_source_of_a_difference() -> None:
    targets, price = np.full((3, 1), 0.5), np.full((3, 1), 100.0)
    assert run(targets, price, NO_COSTS).equity.tolist() == [1e6] * 3
    assert run(targets, price, Costs(10.0, 0.0)).equity[0] == pytest.approx(1e6 - 500.0)
