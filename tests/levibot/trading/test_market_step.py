from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.liquidity import Liquidity
from levibot.trading.market_step import Account, market_step
from levibot.trading.terms import Terms

NAN = float("nan")


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_a_buy_pays_the_fee_and_the_slippage_on_top() -> None:
    account, flows, orders = market_step(
        Account.opened(1, 1_000.0), array(0.5), fill=array(10.0), mark=array(12.0), costs=Costs(100.0, 200.0)
    )
    assert orders[0] == pytest.approx(50.0)
    assert flows.traded_notional == pytest.approx(50 * 10.2)
    assert flows.fees == pytest.approx(5.1)
    assert flows.slippage == pytest.approx(10.0)
    assert account.cash == pytest.approx(1_000 - 510 - 5.1)
    assert account.equity == pytest.approx(account.cash + 50 * 12)


def test_a_sell_fills_below_the_price() -> None:
    account, flows, _ = market_step(
        Account.opened(1, 1_000.0), array(-0.5), fill=array(10.0), mark=array(10.0), costs=Costs(0.0, 100.0)
    )
    assert account.units[0] == pytest.approx(-50.0)
    assert account.cash == pytest.approx(1_000 + 50 * 9.9)
    assert flows.slippage == pytest.approx(5.0)


def test_a_symbol_without_a_fill_keeps_its_position_at_its_last_mark() -> None:
    held, _, _ = market_step(
        Account.opened(2, 1_000.0), array(0.4, 0.4), fill=array(1, 1), mark=array(2, 1), costs=NO_COSTS
    )
    after, flows, orders = market_step(
        held, array(0.0, 0.0), fill=array(NAN, 1.0), mark=array(NAN, 1.0), costs=NO_COSTS
    )
    assert after.units.tolist() == [400.0, 0.0]
    assert orders.tolist() == [0.0, -400.0]
    assert flows.equity == pytest.approx(200 + 400 + 800)


def test_no_order_is_placed_for_a_missing_target() -> None:
    account, flows, _ = market_step(
        Account.opened(1, 1_000.0), array(NAN), fill=array(1.0), mark=array(1.0), costs=Costs()
    )
    assert account.units[0] == 0.0
    assert flows.traded_notional == 0.0


def test_a_buy_is_cut_to_what_cash_can_pay() -> None:
    account, flows, _ = market_step(
        Account.opened(1, 1_000.0), array(1.0), fill=array(10.0), mark=array(10.0), costs=Costs(10.0, 0.0)
    )
    assert account.cash == pytest.approx(0.0, abs=1e-9)
    assert flows.traded_notional == pytest.approx(1_000 / 1.001)
    free, _, _ = market_step(
        Account.opened(1, 1_000.0),
        array(2.0),
        fill=array(10.0),
        mark=array(10.0),
        costs=NO_COSTS,
        terms=Terms(limit_buys=False),
    )
    assert free.units[0] == pytest.approx(200.0)


def test_sells_pay_for_the_buys_of_the_same_bar() -> None:
    held, _, _ = market_step(
        Account.opened(2, 1_000.0), array(0.0, 1.0), fill=array(1, 1), mark=array(1, 1), costs=NO_COSTS
    )
    swapped, _, _ = market_step(held, array(1.0, 0.0), fill=array(1, 1), mark=array(1, 1), costs=NO_COSTS)
    assert swapped.units.tolist() == [1_000.0, 0.0]


def test_impact_is_the_square_root_of_the_share_of_volume_times_volatility() -> None:
    """An order of 4 % of a bar's volume at 3 % volatility: twice and three times what is stated, 60 bps."""
    liquidity = Liquidity(array(2_500.0)[None], array(0.03)[None])
    impact = Costs(0.0, 0.0, impact_bps=10.0).impact_per_root_unit(liquidity)[0]
    account, flows, orders = market_step(
        Account.opened(1, 2_000.0),
        array(0.5),
        fill=array(10.0),
        mark=array(10.0),
        costs=NO_COSTS,
        impact=impact,
    )
    assert orders[0] == pytest.approx(100.0)
    assert flows.impact == pytest.approx(1_000.0 * 0.006)
    assert account.equity == pytest.approx(2_000.0 - 6.0)


@pytest.mark.parametrize("impact", [1e-6, 0.01, 0.3, 10.0])
@pytest.mark.parametrize("cash", [1e-3, 1e3, 1e9])
def test_a_buy_that_moves_the_price_is_cut_to_exactly_what_cash_can_pay(impact: float, cash: float) -> None:
    account, flows, orders = market_step(
        Account.opened(1, cash),
        array(1.0),
        fill=array(10.0),
        mark=array(10.0),
        costs=Costs(),
        impact=array(impact),
    )
    assert orders[0] > 0.0
    assert account.cash == pytest.approx(0.0, abs=1e-9 * cash)
    assert flows.traded_notional + flows.fees == pytest.approx(cash)


def test_a_sale_too_large_for_the_market_gets_nothing_and_not_less() -> None:
    account, flows, _ = market_step(
        Account.opened(1, 1_000.0),
        array(-1.0),
        fill=array(10.0),
        mark=array(10.0),
        costs=Costs(),
        impact=array(9.0),
    )
    assert flows.traded_notional == pytest.approx(0.0, abs=1e-9)
    assert account.equity == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("terms", "weights"),
    [
        (Terms(max_leverage=1.2), [0.6, -0.6]),
        (Terms(max_notional=250.0), [0.25, -0.25]),
        (Terms(max_leverage=2.0, max_notional=1_000.0), [1.0, -1.0]),
    ],
)
def test_limits_cut_what_is_wanted(terms: Terms, weights: list[float]) -> None:
    account, _, _ = market_step(
        Account.opened(2, 1_000.0),
        array(1.0, -1.0),
        fill=array(10.0, 5.0),
        mark=array(10.0, 5.0),
        costs=NO_COSTS,
        terms=terms,
    )
    assert account.weights().tolist() == pytest.approx(weights)


def test_a_position_without_an_order_takes_its_room_first() -> None:
    held, _, _ = market_step(
        Account.opened(2, 1_000.0), array(0.8, NAN), fill=array(10, 10), mark=array(10, 10), costs=NO_COSTS
    )
    after, _, _ = market_step(
        *(held, array(NAN, -0.9)),
        fill=array(10, 10),
        mark=array(10, 10),
        costs=NO_COSTS,
        terms=Terms(max_leverage=1.0),
    )
    assert after.weights().tolist() == pytest.approx([0.8, -0.2])


@pytest.mark.parametrize(("side", "paid"), [(0.5, 5.5), (-0.5, -5.5)])
def test_longs_pay_funding_and_shorts_receive_it(side: float, paid: float) -> None:
    account, flows, _ = market_step(
        Account.opened(1, 1_000.0),
        array(side),
        fill=array(10.0),
        mark=array(11.0),
        costs=NO_COSTS,
        funding_rate=array(0.01),
    )
    assert flows.funding == pytest.approx(paid)
    assert account.equity == pytest.approx(1_000 + side * 100 - paid)


def test_a_bankrupt_account_is_closed_and_stays_flat() -> None:
    short, _, _ = market_step(
        Account.opened(1, 1_000.0), array(-1.0), fill=array(10.0), mark=array(10.0), costs=NO_COSTS
    )
    broke, flows, orders = market_step(short, array(NAN), fill=array(10.0), mark=array(25.0), costs=NO_COSTS)
    assert broke.units[0] == 0.0
    assert orders[0] == 100.0
    assert broke.cash == flows.equity == pytest.approx(-500.0)
    later, flows, _ = market_step(broke, array(1.0), fill=array(1.0), mark=array(2.0), costs=Costs())
    assert later.units[0] == 0.0
    assert flows.equity == broke.equity


def test_an_account_that_opens_a_bar_without_value_is_closed_at_the_fill() -> None:
    short, _, _ = market_step(
        Account.opened(1, 1_000.0), array(-1.0), fill=array(10.0), mark=array(10.0), costs=NO_COSTS
    )
    broke, _, orders = market_step(short, array(-1.0), fill=array(30.0), mark=array(5.0), costs=NO_COSTS)
    assert orders[0] == 100.0
    assert broke.equity == pytest.approx(-1_000.0)


def test_weights_are_fractions_of_equity() -> None:
    account, _, _ = market_step(
        Account.opened(2, 1_000.0), array(0.5, -0.25), fill=array(10, 10), mark=array(10, 10), costs=NO_COSTS
    )
    assert account.weights().tolist() == pytest.approx([0.5, -0.25])
    assert account.weights(array(20.0, NAN)).tolist() == pytest.approx([2 / 3, -1 / 6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fill": array(0.0)}, "A fill price is 0.0"),
        ({"mark": array(np.inf)}, "A mark price is inf"),
        ({"fill": array(1.0, 2.0)}, r"fill has shape \(2,\)"),
        ({"funding_rate": array(NAN)}, "not finite"),
        ({"impact": array(-1.0)}, "impact is below zero"),
    ],
)
def test_broken_input_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    prices = {"fill": array(1.0), "mark": array(1.0)}
    with pytest.raises(DataError, match=message):
        market_step(Account.opened(1, 1.0), array(0.0), **{**prices, **change}, costs=Costs())
