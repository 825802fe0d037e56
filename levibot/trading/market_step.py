"""The one place where a position meets a price.

Fill, fee, spread, impact, funding and the new equity are computed here and nowhere else. The backtest, the
reinforcement-learning environment and the shadow ledger call `step_account` (compiled, in place) or
`market_step` (one step from Python).

One step of one account over S symbols, in this order:

1. Every symbol is valued at its fill price; one without a fill at its last known price. The sum with cash is
   `value`. An account whose value is not above zero is closed and stays flat.
2. Each finite target becomes an order, `target * value / fill - units`: sized before all costs. A position
   that it would make larger than `max_notional` is cut to that; where all would be more than `max_leverage`
   times value, the positions that have an order are scaled down in one proportion.
3. Sells, then buys, each in the order of the symbols. Slippage (half the spread) and impact move the fill
   against the order: a buy pays `fill * (1 + moved)`, a sell gets `fill * (1 - moved)`, where `moved` is
   `slippage + impact * sqrt(units of the order)` and a sell never gets less than nothing. The fee is a
   fraction of that, out of cash.
4. With `limit_buys`, a buy that cash cannot pay with its costs is cut to what it can pay. Sells are never
   cut: shorts get their proceeds as cash and need no margin.
5. Funding: longs pay `units * mark * funding_rate`, shorts receive it; on the position after the orders.
   Longs that are spot pay none (`longs_are_funded`).
6. Equity is cash and units at the mark price. If it is not above zero the account is closed at the marks.

With slippage, impact and funding at zero and no limits this is the convention of vectorbt's target-percent
orders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numba import njit

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.costs import Costs
from levibot.trading.terms import UNLIMITED, Terms

# Newton steps to the largest buy that cash pays: each doubles the digits, from half a digit or more.
_NEWTON_STEPS = 7


class Flows(NamedTuple):
    """What one step did to an account, in quote currency. Fees, slippage and impact are >= 0."""

    cash: float
    equity: float
    traded_notional: float
    fees: float
    slippage: float
    impact: float
    funding: float


class Rules(NamedTuple):
    """Costs and terms as the compiled kernel reads them. Rates are fractions >= 0."""

    fee_rate: float
    slippage_rate: float
    longs_are_funded: bool
    max_leverage: float
    max_notional: float
    limit_buys: bool


def rules_of(costs: Costs, terms: Terms) -> Rules:
    """What the kernel reads of both. A series of funding rates is left out where `terms` fund nothing."""
    return Rules(
        costs.fee_rate,
        costs.slippage_rate,
        terms.funded == "all",
        float(terms.max_leverage),
        float(terms.max_notional),
        terms.limit_buys,
    )


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
def weigh_alone(units: float, cash: float, price: float, last_price: float) -> float:
    """`weigh` for an account of one symbol: the position's value over equity."""
    held = units * (last_price if math.isnan(price) else price) if units != 0.0 else 0.0
    value = cash + held
    return held / value if value > 0.0 else 0.0


class Filled(NamedTuple):
    """What one order did. units: traded, below 0 when sold. The others in quote currency."""

    units: float
    cash: float
    notional: float
    fee: float
    slippage: float
    impact: float


@njit(cache=True)
def fill_order(order: float, cash: float, fill: float, rules: Rules, impact: float) -> Filled:
    """Fill an order of so many units, not 0, at `fill` and what moves it; cash: before it."""
    side = 1.0 if order > 0.0 else -1.0
    pushed = impact * math.sqrt(abs(order)) if impact > 0.0 else 0.0
    if side < 0.0:
        pushed = min(pushed, 1.0 - rules.slippage_rate)
    price = fill * (1.0 + side * (rules.slippage_rate + pushed))
    if side > 0.0 and rules.limit_buys and order * price * (1.0 + rules.fee_rate) > cash:
        order = _affordable(cash, fill, rules, impact)
        pushed = impact * math.sqrt(order) if impact > 0.0 else 0.0
        price = fill * (1.0 + (rules.slippage_rate + pushed))
    notional = abs(order) * price
    fee = notional * rules.fee_rate
    cash -= order * price + fee
    plain = abs(order) * fill
    return Filled(order, cash, notional, fee, plain * rules.slippage_rate, plain * pushed)


@njit(cache=True)
def step_account(
    units: FloatArray,
    last_price: FloatArray,
    orders: FloatArray,
    cash: float,
    target: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    rules: Rules,
    impact: FloatArray,
    funding_rate: FloatArray,
) -> Flows:
    """Take one account through one bar, in place. The compiled kernel: nothing is allocated or checked.

    units: (S,) positions, updated. last_price: (S,) last known marks, updated; NaN for a symbol never seen.
    orders: (S,) overwritten with the units traded in this step. cash: before the step.
    target: (S,) position wanted, as a fraction of equity; NaN = no order.
    fill: (S,) price at which orders fill; NaN = not tradeable on this bar, its target is ignored.
    mark: (S,) price at which equity is marked at the end of the bar; NaN = the last known one.
    impact: (S,) >= 0, see `Costs.impact_per_root_unit`. funding_rate: (S,) of this bar. Both 0 = none, never
        NaN.
    Returns the flows, with the new cash and the equity at the marks.
    """
    n = units.shape[0]
    traded = fees = slipped = impacted = funding = 0.0
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
        if rules.max_leverage < math.inf or rules.max_notional < math.inf:
            _limit(units, last_price, orders, value, target, fill, rules)
        # Sells first: their proceeds pay for the buys.
        for side in (-1.0, 1.0):
            for s in range(n):
                if orders[s] * side <= 0.0:
                    continue
                filled = fill_order(orders[s], cash, fill[s], rules, impact[s])
                orders[s], cash = filled.units, filled.cash
                units[s] += filled.units
                traded += filled.notional
                fees += filled.fee
                slipped += filled.slippage
                impacted += filled.impact

    for s in range(n):
        if not np.isnan(mark[s]):
            last_price[s] = mark[s]
        elif np.isnan(last_price[s]) and not np.isnan(fill[s]):
            last_price[s] = fill[s]
        if units[s] < 0.0 or (units[s] > 0.0 and rules.longs_are_funded):
            funding += units[s] * last_price[s] * funding_rate[s]
    cash -= funding
    equity = account_value(units, cash, last_price, last_price)
    if equity <= 0.0:
        for s in range(n):
            orders[s] -= units[s]
            units[s] = 0.0
        cash = equity
    return Flows(cash, equity, traded, fees, slipped, impacted, funding)


@njit(cache=True)
def step_alone(
    units: float,
    last_price: float,
    cash: float,
    target: float,
    fill: float,
    mark: float,
    rules: Rules,
    impact: float,
    funding_rate: float,
) -> tuple[float, float, float, float]:
    """`step_account` for an account of one symbol, in numbers: the units, last price, cash and equity after.

    The same steps without arrays, for loops over many accounts; a law holds both to the same bits.
    """
    known = last_price if math.isnan(fill) else fill
    value = cash + units * known if units != 0.0 else cash
    if value <= 0.0:
        cash, units = value, 0.0
    elif not math.isnan(target) and not math.isnan(fill):
        order = target * value / fill - units
        if rules.max_leverage < math.inf or rules.max_notional < math.inf:
            position = units + order
            if abs(position) * fill > rules.max_notional:
                position = math.copysign(rules.max_notional / fill, position)
                order = position - units
            wanted, room = abs(position) * fill, rules.max_leverage * value
            if wanted > room:
                order = (units + order) * (room / wanted) - units
        if order != 0.0:
            filled = fill_order(order, cash, fill, rules, impact)
            cash = filled.cash
            units += filled.units
    if not math.isnan(mark):
        last_price = mark
    elif math.isnan(last_price) and not math.isnan(fill):
        last_price = fill
    if units < 0.0 or (units > 0.0 and rules.longs_are_funded):
        cash -= units * last_price * funding_rate
    equity = cash + units * last_price if units != 0.0 else cash
    if equity <= 0.0:
        cash, units = equity, 0.0
    return units, last_price, cash, equity


@njit(cache=True)
def _limit(
    units: FloatArray,
    last_price: FloatArray,
    orders: FloatArray,
    value: float,
    target: FloatArray,
    fill: FloatArray,
    rules: Rules,
) -> None:
    """Cut the orders to what the limits leave. A position without an order stays, and takes its room."""
    kept = wanted = 0.0
    for s in range(units.shape[0]):
        if np.isnan(target[s]) or np.isnan(fill[s]):
            kept += (
                abs(units[s] * (last_price[s] if np.isnan(fill[s]) else fill[s])) if units[s] != 0.0 else 0.0
            )
            continue
        position = units[s] + orders[s]
        if abs(position) * fill[s] > rules.max_notional:
            position = math.copysign(rules.max_notional / fill[s], position)
            orders[s] = position - units[s]
        wanted += abs(position) * fill[s]
    room = max(0.0, rules.max_leverage * value - kept)
    if wanted > room:
        for s in range(units.shape[0]):
            if not np.isnan(target[s]) and not np.isnan(fill[s]):
                orders[s] = (units[s] + orders[s]) * (room / wanted) - units[s]


@njit(cache=True)
def _affordable(cash: float, fill: float, rules: Rules, impact: float) -> float:
    """The units whose price, impact and fee are exactly `cash`; 0 without cash."""
    without_impact = fill * (1.0 + rules.slippage_rate)
    units: float = max(0.0, cash / (without_impact * (1.0 + rules.fee_rate)))
    if impact > 0.0 and units > 0.0:
        # a * r**2 + b * r**3 = cash in the root r of the units. The left side is convex and r begins above
        # the solution, so every step stays above it and comes nearer.
        a, b = without_impact * (1.0 + rules.fee_rate), fill * impact * (1.0 + rules.fee_rate)
        # Whichever of the two terms alone would take all cash is a bound; the smaller one is the nearer.
        root = min(math.sqrt(units), (cash / b) ** (1.0 / 3.0))
        for _ in range(_NEWTON_STEPS):
            root -= ((a + b * root) * root * root - cash) / ((2.0 * a + 3.0 * b * root) * root)
        units = root * root
    return units


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
    terms: Terms = UNLIMITED,
    impact: FloatArray | None = None,
    funding_rate: FloatArray | None = None,
) -> tuple[Account, Flows, FloatArray]:
    """One bar of one account, as values: the account after it, the flows, and the (S,) units traded.

    target, fill, mark, impact, funding_rate: (S,) as in `step_account`; an order has no impact, and no
    funding is charged, where they are left out.
    Raises DataError on a wrong shape, a price that is not above zero, an impact below zero, or a funding
    rate that is not finite.
    """
    n = len(account.units)
    pushes = np.zeros(n) if impact is None else np.asarray(impact, dtype=np.float64)
    is_funded = funding_rate is not None and terms.funded != "none"
    rates = np.asarray(funding_rate, dtype=np.float64) if is_funded else np.zeros(n)
    columns = {"target": target, "fill": fill, "mark": mark, "impact": pushes, "funding_rate": rates}
    for name, column in columns.items():
        if np.shape(column) != (n,):
            raise DataError(f"{name} has shape {np.shape(column)}: the account has {n} symbols.")
    check_prices("fill", fill)
    check_prices("mark", mark)
    check_rates(pushes, rates)
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
            rules_of(costs, terms),
            np.ascontiguousarray(pushes),
            np.ascontiguousarray(rates),
        )
    )
    return Account(units, last_price, flows.cash, flows.equity), flows, orders


@dataclass(frozen=True, slots=True)
class Trade:
    """One order that was filled. units: below 0 when sold. price: with everything that moved it. fee,
    slippage: in quote currency; slippage is what the price lost against the open, impact among it.
    """

    units: float
    price: float
    fee: float
    slippage: float


def trades_of(
    orders: FloatArray, fill: FloatArray, costs: Costs, impact: FloatArray | None = None
) -> list[tuple[int, Trade]]:
    """What each of the (S,) units that `market_step` gave as traded was filled at, by its column.

    A symbol without a price has no trade: a closing there is the end of an account without equity.
    """
    # What the cash allowed is in the orders already.
    rules = rules_of(costs, UNLIMITED)
    trades = []
    for s in np.flatnonzero((orders != 0.0) & np.isfinite(fill)).tolist():
        push = 0.0 if impact is None else float(impact[s])
        done = Filled(*fill_order(float(orders[s]), math.inf, float(fill[s]), rules, push))
        price = done.notional / abs(done.units)
        trades.append((s, Trade(done.units, price, done.fee, done.slippage + done.impact)))
    return trades


def check_prices(name: str, price: FloatArray) -> None:
    """Refuse prices that are neither NaN nor finite and above zero. Raises DataError."""
    row = _first_wrong(np.ascontiguousarray(price, dtype=np.float64).reshape(-1))
    if row >= 0:
        value = np.asarray(price).reshape(-1)[row]
        raise DataError(f"A {name} price is {value}: it must be above zero, or NaN where it is missing.")


@njit(cache=True)
def _first_wrong(price: FloatArray) -> int:
    """Index of the first price that cannot be one, -1 without any. In one pass and without a copy."""
    for t in range(price.shape[0]):
        if not (np.isnan(price[t]) or 0.0 < price[t] < math.inf):
            return t
    return -1


def check_rates(impact: FloatArray, funding_rate: FloatArray) -> None:
    """Refuse an impact that is not a finite number >= 0 and a funding rate that is not finite: DataError."""
    if not (np.isfinite(impact) & (impact >= 0.0)).all():
        raise DataError("An impact is below zero or not finite; an order without impact has impact 0.")
    if not np.isfinite(funding_rate).all():
        raise DataError("A funding rate is not finite; a bar without funding has rate 0.")
