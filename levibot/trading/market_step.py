"""The one place where a position meets a price.

Fill, fee, slippage, funding and the new equity are computed here and nowhere else. The backtest, the
reinforcement-learning environment and the shadow ledger call `step_account` (compiled, in place) or
`market_step` (one step from Python).

One step of one account over S symbols, in this order:

1. Every symbol is valued at its fill price; one without a fill at its last known price. The sum with cash is
   `value`. An account whose value is not above zero is closed and stays flat.
2. Each finite target becomes an order, `target * value / fill - units`: sized before fee and slippage.
3. Sells, then buys, each in the order of the symbols. Slippage moves the fill against the order: a buy pays
   `fill * (1 + slippage)`, a sell gets `fill * (1 - slippage)`. The fee is a fraction of that, out of cash.
4. With `limit_buys`, a buy that cash cannot pay with its fee is cut to what it can pay. Sells are never cut:
   shorts get their proceeds as cash and need no margin.
5. Funding: longs pay `units * mark * funding_rate`, shorts receive it; on the position after the orders.
6. Equity is cash and units at the mark price. If it is not above zero the account is closed at the marks.

With slippage and funding at zero this is the convention of vectorbt's target-percent orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numba import njit

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.costs import Costs


class Flows(NamedTuple):
    """What one step did to an account, in quote currency. Fees and slippage are >= 0."""

    cash: float
    equity: float
    traded_notional: float
    fees: float
    slippage: float
    funding: float


@njit(cache=True)
def account_value(units: FloatArray, cash: float, price: FloatArray, last_price: FloatArray) -> float:
    """Cash and positions at `price` (S,), or at `last_price` (S,) where `price` is NaN."""
    value = cash
    for s in range(units.shape[0]):
        if units[s] != 0.0:
            value += units[s] * (last_price[s] if np.isnan(price[s]) else price[s])
    return value


@njit(cache=True)
def weigh(
    units: FloatArray, cash: float, price: FloatArray, last_price: FloatArray, weight: FloatArray
) -> float:
    """Write into `weight` (S,) each position's value over equity, priced as in `account_value`; give equity.

    All weights are zero where equity is not above zero.
    """
    value: float = account_value(units, cash, price, last_price)
    for s in range(units.shape[0]):
        weight[s] = 0.0
        if units[s] != 0.0 and value > 0.0:
            weight[s] = units[s] * (last_price[s] if np.isnan(price[s]) else price[s]) / value
    return value


@njit(cache=True)
def step_account(
    units: FloatArray,
    last_price: FloatArray,
    orders: FloatArray,
    cash: float,
    target: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    fee_rate: float,
    slippage_rate: float,
    funding_rate: FloatArray,
    limit_buys: bool,
) -> Flows:
    """Take one account through one bar, in place. The compiled kernel: nothing is allocated or checked.

    units: (S,) positions, updated. last_price: (S,) last known marks, updated; NaN for a symbol never seen.
    orders: (S,) overwritten with the units traded in this step. cash: before the step.
    target: (S,) position wanted, as a fraction of equity; NaN = no order.
    fill: (S,) price at which orders fill; NaN = not tradeable on this bar, its target is ignored.
    mark: (S,) price at which equity is marked at the end of the bar; NaN = the last known one.
    fee_rate, slippage_rate: fractions >= 0. funding_rate: (S,) of this bar, 0 = none; never NaN.
    Returns the flows, with the new cash and the equity at the marks.
    """
    n = units.shape[0]
    traded = fees = slipped = funding = 0.0
    value = account_value(units, cash, fill, last_price)
    for s in range(n):
        orders[s] = 0.0
        if value > 0.0 and not np.isnan(target[s]) and not np.isnan(fill[s]):
            orders[s] = target[s] * value / fill[s] - units[s]
        elif value <= 0.0:
            orders[s] = -units[s]
            cash += units[s] * (last_price[s] if np.isnan(fill[s]) else fill[s]) if units[s] != 0.0 else 0.0
            units[s] = 0.0

    if value > 0.0:
        # Sells first: their proceeds pay for the buys.
        for side in (-1.0, 1.0):
            for s in range(n):
                if orders[s] * side <= 0.0:
                    continue
                price = fill[s] * (1.0 + side * slippage_rate)
                if side > 0.0 and limit_buys and orders[s] * price * (1.0 + fee_rate) > cash:
                    orders[s] = max(0.0, cash / (price * (1.0 + fee_rate)))
                notional = abs(orders[s]) * price
                fee = notional * fee_rate
                cash -= orders[s] * price + fee
                units[s] += orders[s]
                traded += notional
                fees += fee
                slipped += abs(orders[s]) * fill[s] * slippage_rate

    for s in range(n):
        if not np.isnan(mark[s]):
            last_price[s] = mark[s]
        elif np.isnan(last_price[s]) and not np.isnan(fill[s]):
            last_price[s] = fill[s]
        if units[s] != 0.0:
            funding += units[s] * last_price[s] * funding_rate[s]
    cash -= funding
    equity = account_value(units, cash, last_price, last_price)
    if equity <= 0.0:
        for s in range(n):
            orders[s] -= units[s]
            units[s] = 0.0
        cash = equity
    return Flows(cash, equity, traded, fees, slipped, funding)


@dataclass(frozen=True, slots=True)
class Account:
    """Positions and cash of one account.

    units: (S,) may be negative. last_price: (S,) marks known last, NaN for a symbol never priced.
    cash, equity: in quote currency; `equity` is marked at `last_price`.
    """

    units: FloatArray
    last_price: FloatArray
    cash: float
    equity: float

    @classmethod
    def opened(cls, n_symbols: int, cash: float) -> Self:
        """A flat account with `cash`."""
        return cls(np.zeros(n_symbols), np.full(n_symbols, np.nan), cash, cash)

    def weights(self, price: FloatArray | None = None) -> FloatArray:
        """(S,) position values over equity, at `price` (S,); where that is NaN, at the last marks."""
        weight = np.empty_like(self.units)
        weigh(self.units, self.cash, self.last_price if price is None else price, self.last_price, weight)
        return weight


def market_step(
    account: Account,
    target: FloatArray,
    *,
    fill: FloatArray,
    mark: FloatArray,
    costs: Costs,
    funding_rate: FloatArray | None = None,
    limit_buys: bool = True,
) -> tuple[Account, Flows, FloatArray]:
    """One bar of one account, as values: the account after it, the flows, and the (S,) units traded.

    target, fill, mark, funding_rate: (S,) as in `step_account`; no funding is charged when it is left out.
    Raises DataError on a wrong shape, a price that is not above zero, or a funding rate that is not finite.
    """
    n = len(account.units)
    rates = np.zeros(n) if funding_rate is None else np.asarray(funding_rate, dtype=np.float64)
    columns = {"target": target, "fill": fill, "mark": mark, "funding_rate": rates}
    for name, column in columns.items():
        if np.shape(column) != (n,):
            raise DataError(f"{name} has shape {np.shape(column)}: the account has {n} symbols.")
    check_prices("fill", fill)
    check_prices("mark", mark)
    if not np.isfinite(rates).all():
        raise DataError("A funding rate is not finite; a bar without funding has rate 0.")
    units, last_price, orders = account.units.copy(), account.last_price.copy(), np.empty(n)
    flows = Flows(
        *step_account(
            units,
            last_price,
            orders,
            float(account.cash),
            np.ascontiguousarray(target, dtype=np.float64),
            np.ascontiguousarray(fill, dtype=np.float64),
            np.ascontiguousarray(mark, dtype=np.float64),
            costs.fee_rate,
            costs.slippage_rate,
            np.ascontiguousarray(rates),
            limit_buys,
        )
    )
    return Account(units, last_price, flows.cash, flows.equity), flows, orders


def check_prices(name: str, price: FloatArray) -> None:
    """Refuse prices that are neither NaN nor finite and above zero. Raises DataError."""
    wrong = ~np.isnan(price) & ~((price > 0.0) & np.isfinite(price))
    if wrong.any():
        value = np.asarray(price)[wrong][0]
        raise DataError(f"A {name} price is {value}: it must be above zero, or NaN where it is missing.")
