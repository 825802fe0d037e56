"""What targets would have earned: the market step over every bar of a history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.costs import Costs
from levibot.trading.market_step import check_prices, step_account, weigh
from levibot.trading.sizing import apply_no_trade_band

START_EQUITY = 1_000_000.0


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """The account after every bar.

    equity: (T,) at the marks, after costs. weights: (T, S) position values over equity after each bar.
    turnover: (T,) traded value over the equity before the bar. fees, slippage, funding: (T,) paid on that
    bar, in quote currency. start_equity: before the first bar.
    """

    equity: FloatArray
    weights: FloatArray
    turnover: FloatArray
    fees: FloatArray
    slippage: FloatArray
    funding: FloatArray
    start_equity: float


def decided_at_close(targets: FloatArray) -> FloatArray:
    """Move targets decided at each bar's close to the bar on which they can fill, the next one.

    targets: (T, S). Returns (T, S) whose first row is NaN (no order). The only place that does this shift.
    """
    shifted = np.full_like(targets, np.nan)
    shifted[1:] = targets[:-1]
    return shifted


def simulate(
    targets: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    costs: Costs,
    *,
    no_trade_band: float = 0.0,
    funding_rate: FloatArray | None = None,
    limit_buys: bool = True,
    start_equity: float = START_EQUITY,
) -> BacktestResult:
    """Run one account over T bars of S symbols that share its cash.

    targets: (T, S) fractions of equity to be filled on bar t at `fill[t]`; NaN = no order. Targets decided at
        a close go through `decided_at_close` first, unless they are meant to fill at that very close.
    fill, mark: (T, S) prices > 0; NaN = not tradeable, or marked at the last known price.
    no_trade_band: half-width in fractions of equity, see `apply_no_trade_band`.
    funding_rate: (T, S) a bar, finite; none when left out.
    Raises DataError on shapes that differ, prices not above zero, infinite targets or a negative band.
    """
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
    # One row that is read on every bar: no funding needs no (T, S) zeros.
    rates = np.zeros((1, targets.shape[1])) if funding_rate is None else np.ascontiguousarray(funding_rate)
    if funding_rate is not None and (rates.shape != targets.shape or not np.isfinite(rates).all()):
        raise DataError(f"Funding rates {rates.shape} must be finite and of the shape {targets.shape}.")
    out = _run(
        targets,
        fill,
        mark,
        rates,
        costs.fee_rate,
        costs.slippage_rate,
        float(no_trade_band),
        limit_buys,
        float(start_equity),
    )
    equity, weights, turnover, fees, slippage, funding = out
    return BacktestResult(equity, weights, turnover, fees, slippage, funding, start_equity)


@njit(cache=True)
def _run(
    targets: FloatArray,
    fill: FloatArray,
    mark: FloatArray,
    funding_rate: FloatArray,
    fee_rate: float,
    slippage_rate: float,
    band: float,
    limit_buys: bool,
    start_equity: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    n_bars, n = targets.shape
    units, orders, weight, ordered = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    last_price = np.full(n, np.nan)
    equity, turnover = np.empty(n_bars), np.zeros(n_bars)
    fees, slippage, funding = np.zeros(n_bars), np.zeros(n_bars), np.zeros(n_bars)
    weights = np.zeros((n_bars, n))
    cash = start_equity
    for t in range(n_bars):
        value = weigh(units, cash, fill[t], last_price, weight)
        apply_no_trade_band(targets[t], weight, band, ordered)
        rates = funding_rate[t] if funding_rate.shape[0] == n_bars else funding_rate[0]
        flows = step_account(
            units,
            last_price,
            orders,
            cash,
            ordered,
            fill[t],
            mark[t],
            fee_rate,
            slippage_rate,
            rates,
            limit_buys,
        )
        cash = flows.cash
        equity[t], fees[t], slippage[t], funding[t] = flows.equity, flows.fees, flows.slippage, flows.funding
        if value > 0.0:
            turnover[t] = flows.traded_notional / value
        weigh(units, cash, last_price, last_price, weights[t])
    return equity, weights, turnover, fees, slippage, funding
