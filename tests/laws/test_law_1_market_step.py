"""Law 1: one market step. Nothing else fills or charges, cost never helps, a flat position earns nothing."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from levibot.market.bars import FloatArray
from levibot.trading.backtest import BacktestResult, simulate, simulate_each
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.liquidity import Liquidity
from levibot.trading.market_step import Account, Flows, market_step, rules_of, step_account
from levibot.trading.terms import UNLIMITED, Funded, Terms

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("levibot", "actors", "deployments", "tune", "rl")
# The step itself, what states its rates, and what it is held against.
ALLOWED = {"levibot/trading/market_step.py", "levibot/trading/costs.py"}

T, S = 12, 2
# An order for half of the start equity is up to 5 % of a bar's volume.
LIQUIDITY = Liquidity(np.full((T, S), 1e5), np.full((T, S), 0.02))
RETURNS = hnp.arrays(np.float64, (T, S), elements=st.floats(-0.1, 0.1))
TARGETS = hnp.arrays(np.float64, (T, S), elements=st.one_of(st.just(np.nan), st.floats(-0.5, 0.5)))
BPS = st.floats(0.0, 50.0)


def prices(returns: FloatArray) -> FloatArray:
    return 100.0 * np.cumprod(1.0 + returns, axis=0)


def run(targets: FloatArray, price: FloatArray, costs: Costs) -> BacktestResult:
    return simulate(targets, price, price, costs, liquidity=LIQUIDITY if costs.impact_bps else None)


def worst_gain_from_cost(low: FloatArray, high: FloatArray) -> float:
    """How much more equity the dearer run ever has, as a fraction; <= 0 when the law holds."""
    return float(np.max(high / low - 1.0))


@settings(deadline=None, max_examples=100)
@given(
    targets=TARGETS,
    returns=RETURNS,
    cheap=BPS,
    extra=BPS,
    dearer=st.sampled_from(["fee_bps", "slippage_bps", "impact_bps"]),
)
def test_higher_cost_never_raises_profit(
    targets: FloatArray, returns: FloatArray, cheap: float, extra: float, dearer: str
) -> None:
    price, costs = prices(returns), Costs(cheap, cheap, cheap)
    low = run(targets, price, costs)
    high = run(targets, price, replace(costs, **{dearer: cheap + extra}))
    assert worst_gain_from_cost(low.equity, high.equity) <= 1e-12


@settings(deadline=None, max_examples=40)
@given(
    targets=TARGETS,
    returns=RETURNS,
    rates=hnp.arrays(np.float64, (T, S), elements=st.floats(-0.001, 0.001)),
    extra=st.floats(0.0, 0.001),
)
def test_higher_funding_never_raises_what_longs_earn_nor_lowers_what_shorts_earn(
    targets: FloatArray, returns: FloatArray, rates: FloatArray, extra: float
) -> None:
    price = prices(returns)
    for side in (1.0, -1.0):
        wanted = side * np.abs(targets)
        low, high = (
            simulate(wanted, price, price, Costs(), funding_rate=charged).equity
            for charged in (rates, rates + extra)
        )
        assert (side * (high - low)).max() <= 1e-12 * low.max()


@settings(deadline=None, max_examples=30)
@given(targets=TARGETS, returns=RETURNS)
def test_only_those_pay_funding_who_hold_a_contract(targets: FloatArray, returns: FloatArray) -> None:
    price, rates = prices(returns), np.full((T, S), 0.001)

    def funding(funded: Funded, wanted: FloatArray) -> float:
        terms = Terms(funded=funded)
        return float(simulate(wanted, price, price, Costs(), terms=terms, funding_rate=rates).funding.sum())

    longs, shorts = np.abs(targets), -np.abs(targets)
    assert funding("shorts", longs) == funding("none", targets) == 0.0
    assert funding("shorts", shorts) == funding("all", shorts) <= 0.0 <= funding("all", longs)


@settings(deadline=None, max_examples=60)
@given(
    targets=hnp.arrays(np.float64, (T, S), elements=st.one_of(st.just(np.nan), st.floats(-3.0, 3.0))),
    returns=RETURNS,
    gaps=hnp.arrays(np.bool_, (T, S)),
    max_leverage=st.floats(0.1, 2.0),
    max_notional=st.floats(1e4, 1e6),
)
def test_no_order_takes_an_account_beyond_its_limits(
    targets: FloatArray, returns: FloatArray, gaps: FloatArray, max_leverage: float, max_notional: float
) -> None:
    """What an order leaves is within the limits at the price it fills at, or what drifted there already."""
    fill = np.where(gaps, np.nan, prices(returns))
    terms = Terms(max_leverage=max_leverage, max_notional=max_notional, limit_buys=False)
    account = Account.opened(S, 1e6)
    for t in range(T):
        known = np.where(np.isnan(fill[t]), np.nan_to_num(account.last_price), fill[t])
        value = account.cash + float(account.units @ known)
        before = np.abs(account.units) * known
        account, _, orders = market_step(
            account, targets[t], fill=fill[t], mark=fill[t], costs=Costs(), terms=terms
        )
        if value <= 0.0 or not account.units.any():
            continue
        after = np.abs(account.units) * known
        assert (after[orders != 0.0] <= max_notional * (1.0 + 1e-9)).all()
        kept = before[orders == 0.0].sum()
        assert after.sum() <= max(max_leverage * value, kept) * (1.0 + 1e-9) + 1e-6


@settings(deadline=None, max_examples=60)
@given(
    targets=hnp.arrays(np.float64, (T, S), elements=st.one_of(st.just(np.nan), st.floats(-3.0, 3.0))),
    returns=hnp.arrays(np.float64, (T, S), elements=st.floats(-0.6, 0.9)),
    gaps=hnp.arrays(np.bool_, (2, T, S)),
    rates=hnp.arrays(np.float64, (T, S), elements=st.floats(-0.001, 0.001)),
    impact_bps=st.sampled_from([0.0, 10.0]),
    band=st.sampled_from([0.0, 0.012]),
    terms=st.builds(
        Terms,
        st.sampled_from(["all", "shorts", "none"]),
        st.sampled_from([0.7, np.inf]),
        st.sampled_from([4e5, np.inf]),
        st.booleans(),
    ),
)
def test_an_account_of_one_symbol_takes_the_same_step_bit_for_bit(
    targets: FloatArray,
    returns: FloatArray,
    gaps: FloatArray,
    rates: FloatArray,
    impact_bps: float,
    band: float,
    terms: Terms,
) -> None:
    """The step in numbers and the step over arrays are one: with gaps, bankruptcies, limits and all costs."""
    mark = np.where(gaps[0], np.nan, prices(returns))
    fill = np.where(gaps[1], np.nan, prices(returns) * 1.001)
    charged = {
        "costs": Costs(impact_bps=impact_bps),
        "no_trade_band": band,
        "terms": terms,
        "liquidity": LIQUIDITY,
        "funding_rate": rates,
    }
    apart = simulate_each(targets, fill, mark, **charged)
    for s in range(S):
        own = charged | {"liquidity": LIQUIDITY.columns([s]), "funding_rate": rates[:, [s]]}
        alone = simulate(targets[:, [s]], fill[:, [s]], mark[:, [s]], **own)
        assert apart[:, s].tobytes() == alone.equity.tobytes()


def test_a_negative_fee_would_be_seen() -> None:
    """The planted fault: a fee below zero, which `Costs` refuses, given to the kernel itself."""
    price, target = np.array([100.0]), np.array([0.5])

    def equity(fee_rate: float) -> float:
        state = np.zeros(1), np.full(1, np.nan), np.zeros(1)
        rules = rules_of(NO_COSTS, UNLIMITED)._replace(fee_rate=fee_rate)
        flows = step_account(*state, 1e6, target, price, price, rules, np.zeros(1), np.zeros(1))
        return float(Flows(*flows).equity)

    assert worst_gain_from_cost(np.array([equity(0.0)]), np.array([equity(-0.001)])) > 1e-12
    assert worst_gain_from_cost(np.array([equity(0.0)]), np.array([equity(0.001)])) < 0.0


@settings(deadline=None, max_examples=30)
@given(returns=RETURNS, bps=st.tuples(BPS, BPS, BPS), is_missing=st.booleans())
def test_a_flat_position_earns_exactly_zero(
    returns: FloatArray, bps: tuple[float, float, float], is_missing: bool
) -> None:
    targets = np.full((T, S), np.nan if is_missing else 0.0)
    charged = {
        "funding_rate": np.full((T, S), 0.01),
        "liquidity": LIQUIDITY,
        "terms": Terms(max_leverage=1.0),
    }
    price = prices(returns)
    result = simulate(targets, price, price, Costs(*bps), **charged)
    assert (result.equity == result.start_equity).all()
    paid = (result.turnover, result.fees, result.slippage, result.impact, result.funding)
    assert [float(of.sum()) for of in paid] == [0.0] * 5
    assert (simulate_each(targets, price, price, Costs(*bps), **charged) == result.start_equity).all()


@settings(deadline=None, max_examples=60)
@given(
    targets=TARGETS,
    returns=RETURNS,
    gaps=hnp.arrays(np.bool_, (T, S)),
    rates=hnp.arrays(np.float64, (T, S), elements=st.floats(-0.001, 0.001)),
    bps=st.tuples(BPS, BPS, BPS),
)
def test_equity_changes_by_price_moves_less_what_was_paid(
    targets: FloatArray,
    returns: FloatArray,
    gaps: FloatArray,
    rates: FloatArray,
    bps: tuple[float, float, float],
) -> None:
    """Units times the price move, less fees, slippage, impact and funding, is the change of equity."""
    costs = Costs(*bps)
    impact = costs.impact_per_root_unit(LIQUIDITY)
    mark = prices(returns)
    fill = np.where(gaps, np.nan, mark * 1.001)
    account = Account.opened(S, 1e6)
    for t in range(T):
        before = account
        known = np.where(np.isnan(before.last_price), fill[t], before.last_price)
        account, flows, orders = market_step(
            before,
            targets[t],
            fill=fill[t],
            mark=mark[t],
            costs=costs,
            impact=impact[t],
            funding_rate=rates[t],
        )
        held = np.where(before.units == 0.0, 0.0, before.units * (mark[t] - known)).sum()
        traded = np.where(orders == 0.0, 0.0, orders * (mark[t] - fill[t])).sum()
        paid = flows.fees + flows.slippage + flows.impact + flows.funding
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
    return bool(words & {"fee", "fees", "slippage", "impact", "commission"}) or name == "units"


def files_looked_at() -> dict[str, Path]:
    """Every module that may hold no market step, by its path in the repository."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    by_path = {file.relative_to(ROOT).as_posix(): file for file in files}
    return {path: file for path, file in by_path.items() if path not in ALLOWED}


def test_the_rooms_that_hold_accounts_are_looked_at() -> None:
    assert {
        "levibot/trading/backtest.py",
        "rl/account_kernel.py",
        "rl/trading_env.py",
        "rl/vector_env.py",
    } <= set(files_looked_at())


def test_no_other_module_computes_fills_or_fees() -> None:
    found = {
        f"{path}:{line}"
        for path, file in files_looked_at().items()
        for line in arithmetic_of_a_market_step(file.read_text())
    }
    assert found == set()


@pytest.mark.parametrize(
    "planted",
    [
        "pnl = position * move - abs(change) * fee_rate",
        "cash -= notional * costs.fee_rate",
        "fill = price * (1 + slippage_rate)",
        "fill = price * (1 + impact[s] * np.sqrt(size))",
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
