"""What targets would have earned: the market step over every bar of a history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.costs import Costs
from levibot.trading.liquidity import Liquidity
from levibot.trading.market_step import (
    Rules,
    check_prices,
    check_rates,
    rules_of,
    step_account,
    step_alone,
    weigh,
    weigh_alone,
)
from levibot.trading.sizing import apply_no_trade_band, ordered_beyond
from levibot.trading.terms import UNLIMITED, Terms

START_EQUITY = 1_000_000.0


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """The account after every bar.

    equity: (T,) at the marks, after costs. weights: (T, S) position values over equity after each bar.
    turnover: (T,) traded value over the equity before the bar. fees, slippage, impact, funding: (T,) paid on
    that bar, in quote currency. start_equity: before the first bar.
    """

    equity: FloatArray
    weights: FloatArray
    turnover: FloatArray
    fees: FloatArray
    slippage: FloatArray
    impact: FloatArray
    funding: FloatArray
    start_equity: float


def decided_at_close(targets: FloatArray, latency_bars: int = 0) -> FloatArray:
    """Move targets decided at each bar's close to the bar on which they can fill, the next one.

    targets: (T, S). latency_bars: how many bars later than that they fill. Returns (T, S) whose first
    1 + latency_bars rows are NaN (no order). The only place that does this shift. Raises DataError on a
    latency below zero.
    """
    if latency_bars < 0:
        raise DataError(f"The latency is {latency_bars} bars: what is not decided yet cannot be filled.")
    late = 1 + latency_bars
    shifted = np.full_like(targets, np.nan)
    shifted[late:] = targets[:-late]
    return shifted


def simulate(
    targets: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    costs: Costs,
    *,
    no_trade_band: float = 0.0,
    terms: Terms = UNLIMITED,
    liquidity: Liquidity | None = None,
    funding_rate: FloatArray | None = None,
    start_equity: float = START_EQUITY,
) -> BacktestResult:
    """Run one account over T bars of S symbols that share its cash.

    targets: (T, S) fractions of equity to be filled on bar t at `fill[t]`; NaN = no order. Targets decided at
        a close go through `decided_at_close` first, unless they are meant to fill at that very close.
    fill, mark: (T, S) prices > 0; NaN = not tradeable, or marked at the last known price.
    no_trade_band: half-width in fractions of equity, see `apply_no_trade_band`.
    liquidity: of the same rows and symbols; needed where the costs have an impact.
    funding_rate: (T, S) a bar, finite; none when left out. Who pays it: `terms.funded`.
    Raises DataError on shapes that differ, prices not above zero, infinite targets, a negative band, or an
    impact without liquidity.
    """
    run = _Run.of(targets, fill, mark, costs, no_trade_band, terms, liquidity, funding_rate, start_equity)
    equity, weights, turnover, fees, slippage, impact, funding = _together(*run.arguments)
    return BacktestResult(equity, weights, turnover, fees, slippage, impact, funding, start_equity)


def simulate_each(
    targets: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    costs: Costs,
    *,
    no_trade_band: float = 0.0,
    terms: Terms = UNLIMITED,
    liquidity: Liquidity | None = None,
    funding_rate: FloatArray | None = None,
    start_equity: float = START_EQUITY,
) -> FloatArray:
    """Equity (T, S) of S accounts, one a symbol, each with `start_equity` of its own.

    Everything as in `simulate`; column s is what `simulate` gives for the columns [s] alone, bit for bit.
    """
    run = _Run.of(targets, fill, mark, costs, no_trade_band, terms, liquidity, funding_rate, start_equity)
    equity: FloatArray = _apart(*run.arguments)
    return equity


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What a compiled loop takes, checked. impact, funding_rate: (T, S), or one row that every bar reads."""

    targets: FloatArray
    fill: FloatArray
    mark: FloatArray
    rules: Rules
    impact: FloatArray
    funding_rate: FloatArray
    band: float
    start_equity: float

    @classmethod
    def of(
        cls,
        targets: FloatArray,
        fill: FloatArray,
        mark: FloatArray,
        costs: Costs,
        no_trade_band: float,
        terms: Terms,
        liquidity: Liquidity | None,
        funding_rate: FloatArray | None,
        start_equity: float,
    ) -> _Run:
        targets, fill, mark = (np.ascontiguousarray(a, dtype=np.float64) for a in (targets, fill, mark))
        if targets.ndim != 2 or targets.shape != fill.shape or targets.shape != mark.shape:
            raise DataError(
                f"Targets {targets.shape}, fills {fill.shape} and marks {mark.shape} must have one shape, "
                "(bars, symbols)."
            )
        if np.isinf(targets).any():
            raise DataError("A target is infinite; NaN marks a bar without an order.")
        if not 0.0 <= no_trade_band < np.inf:
            raise DataError(f"The no-trade band is {no_trade_band}: it must not be negative.")
        if not start_equity > 0.0:
            raise DataError(f"The start equity is {start_equity}: it must be above zero.")
        check_prices("fill", fill)
        check_prices("mark", mark)
        # One row that is read on every bar: what is not charged needs no (T, S) zeros.
        impact, rates = np.zeros((1, targets.shape[1])), np.zeros((1, targets.shape[1]))
        if costs.impact_bps > 0.0:
            if liquidity is None:
                raise DataError(
                    f"impact_bps is {costs.impact_bps}: an impact needs the liquidity of the market; "
                    "give it, or set impact_bps to 0."
                )
            impact = np.ascontiguousarray(costs.impact_per_root_unit(liquidity))
        if funding_rate is not None and terms.funded != "none":
            rates = np.ascontiguousarray(funding_rate, dtype=np.float64)
        for name, charged in (("Funding rates", rates), ("Liquidity", impact)):
            if charged.shape not in ((1, targets.shape[1]), targets.shape):
                raise DataError(f"{name} {charged.shape} must be of the shape {targets.shape}.")
        check_rates(impact, rates)
        rules = rules_of(costs, terms)
        return cls(targets, fill, mark, rules, impact, rates, float(no_trade_band), float(start_equity))

    @property
    def arguments(
        self,
    ) -> tuple[FloatArray, FloatArray, FloatArray, Rules, FloatArray, FloatArray, float, float]:
        return (
            *(self.targets, self.fill, self.mark, self.rules),
            *(self.impact, self.funding_rate, self.band, self.start_equity),
        )


@njit(cache=True)
def _together(
    targets: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    rules: Rules,
    impact: FloatArray,
    funding_rate: FloatArray,
    band: float,
    start_equity: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    n_bars, n = targets.shape
    units, orders, weight, ordered = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    last_price = np.full(n, np.nan)
    equity, turnover = np.empty(n_bars), np.zeros(n_bars)
    fees, slippage, impacts, funding = (
        np.zeros(n_bars),
        np.zeros(n_bars),
        np.zeros(n_bars),
        np.zeros(n_bars),
    )
    weights = np.zeros((n_bars, n))
    cash = start_equity
    for t in range(n_bars):
        value = weigh(units, cash, fill[t], last_price, weight)
        apply_no_trade_band(targets[t], weight, band, ordered)
        flows = step_account(
            units,
            last_price,
            orders,
            cash,
            ordered,
            fill[t],
            mark[t],
            rules,
            impact[t if impact.shape[0] == n_bars else 0],
            funding_rate[t if funding_rate.shape[0] == n_bars else 0],
        )
        cash = flows.cash
        equity[t], fees[t], slippage[t] = flows.equity, flows.fees, flows.slippage
        impacts[t], funding[t] = flows.impact, flows.funding
        if value > 0.0:
            turnover[t] = flows.traded_notional / value
        weigh(units, cash, last_price, last_price, weights[t])
    return equity, weights, turnover, fees, slippage, impacts, funding


@njit(cache=True)
def _apart(
    targets: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    rules: Rules,
    impact: FloatArray,
    funding_rate: FloatArray,
    band: float,
    start_equity: float,
) -> FloatArray:
    n_bars, n = targets.shape
    units, cash, last_price = np.zeros(n), np.full(n, start_equity), np.full(n, np.nan)
    equity = np.empty((n_bars, n))
    # Bar by bar, not account by account: in this order the prices lie in memory.
    for t in range(n_bars):
        i = t if impact.shape[0] == n_bars else 0
        f = t if funding_rate.shape[0] == n_bars else 0
        for s in range(n):
            weight = weigh_alone(units[s], cash[s], fill[t, s], last_price[s]) if band > 0.0 else 0.0
            units[s], last_price[s], cash[s], equity[t, s] = step_alone(
                units[s],
                last_price[s],
                cash[s],
                ordered_beyond(targets[t, s], weight, band),
                fill[t, s],
                mark[t, s],
                rules,
                impact[i, s],
                funding_rate[f, s],
            )
    return equity
