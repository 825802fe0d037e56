"""What orders would have earned over a test period, in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.market.bars import BoolArray, FloatArray, Panel
from levibot.trading.backtest import BacktestResult
from levibot.trading.capacity import capacity
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.metrics import (
    annual_return,
    days_of,
    max_drawdown,
    sharpe,
    sharpe_interval,
    sortino,
    turnover_per_day,
)
from levibot.trading.slices import Slice, by_year
from levibot.trading.tape import Tape

COST_CURVE_BPS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)


@dataclass(frozen=True, slots=True)
class Performance:
    """One strategy over the test period. Ratios are NaN where they are not defined.

    sharpe_net, sharpe_gross: annualised from daily returns, with and without what trading costs; funding,
    where it is paid, is in both. sharpe_ci95: stationary
    bootstrap of sharpe_net. max_drawdown: <= 0. turnover_per_day: traded value over equity. annual_return:
    compound, net. daily_returns: (D,) net, one a UTC day. sortino: of them. years: of them by calendar year.
    cost_curve: costs in bps a side and the net Sharpe ratio under them. capacity: see there; NaN for an
    account that only holds.
    """

    sharpe_net: float
    sharpe_gross: float
    sharpe_ci95: tuple[float, float]
    max_drawdown: float
    turnover_per_day: float
    annual_return: float
    daily_returns: FloatArray
    sortino: float
    years: dict[str, Slice]
    cost_curve: tuple[tuple[float, float], ...]
    capacity: float

    def to_json(self) -> dict[str, Any]:
        return {
            "sharpe_net": _number(self.sharpe_net),
            "sharpe_gross": _number(self.sharpe_gross),
            "sharpe_ci95": [_number(bound) for bound in self.sharpe_ci95],
            "max_drawdown": _number(self.max_drawdown),
            "turnover_per_day": _number(self.turnover_per_day),
            "annual_return": _number(self.annual_return),
            "sortino": _number(self.sortino),
            "years": {year: of_year.to_json() for year, of_year in self.years.items()},
            "cost_curve": curve_to_json(self.cost_curve),
            "capacity": _number(self.capacity),
        }


def bought_once(panel: Panel) -> FloatArray:
    """(T, S) orders for one account a symbol: all of it is bought on the symbol's first bar and held."""
    orders = np.full(panel.open.shape, np.nan)
    there = ~np.isnan(panel.open)
    bought = np.flatnonzero(there.any(axis=0))
    orders[there.argmax(axis=0)[bought], bought] = 1.0
    return orders


def rebalanced_daily(panel: Panel) -> FloatArray:
    """(T, S) orders that give every symbol that trades the same weight, on the first bar of each UTC day."""
    orders = np.full(panel.open.shape, np.nan)
    days = panel.ts.astype("datetime64[D]")
    first = np.concatenate(([True], days[1:] != days[:-1]))
    there = ~np.isnan(panel.open)
    share = 1.0 / np.maximum(there.sum(axis=1, keepdims=True), 1)
    return np.where(first[:, None] & there, share, orders)


def performance(tape: Tape, ordered: FloatArray, band: float, seed: int) -> Performance:
    """The figures of one account. ordered: (T, S) fractions of equity on the bar that each fills on."""
    net, gross = (tape.trade(ordered, band, costs=paid) for paid in (None, NO_COSTS))
    costs = tape.conditions.costs

    def ratio(bps: float) -> float:
        return sharpe(tape.daily_returns(tape.trade(ordered, band, costs=costs.with_total(bps))))

    return _rated(
        tape.test,
        *(
            tape.daily_returns(net),
            tape.daily_returns(gross),
            net.equity / net.start_equity,
            net.turnover,
            seed,
        ),
        curve=tuple((bps, ratio(bps)) for bps in COST_CURVE_BPS),
        capacity=capacity(tape, ordered, band),
    )


def holding(tape: Tape, seed: int) -> Performance:
    """The mean of one account a symbol that buys on its first bar and holds.

    A day's return is the mean over the symbols held that day, so no coin outweighs the others after a rally:
    the usual yardstick, and a hard one, since nothing is paid for keeping the weights equal.
    """
    test, costs = tape.test, tape.conditions.costs
    orders = bought_once(test)
    columns = [s for s in range(len(test.symbols)) if not np.isnan(orders[:, s]).all()]

    def accounts(paid: Costs) -> list[BacktestResult]:
        return [tape.trade_alone(orders, s, costs=paid) for s in columns]

    def returns(of: list[BacktestResult]) -> FloatArray:
        return np.column_stack([tape.daily_returns(account) for account in of])

    days = (test.ts.astype("datetime64[D]") - test.ts[0].astype("datetime64[D]")).astype(np.int64)
    bought_on = days[np.isfinite(orders[:, columns]).argmax(axis=0)]
    held = np.arange(days[-1] + 1)[:, None] >= bought_on
    paying = accounts(costs)
    earned = returns(paying)
    net, gross = (_mean_of_held(of, held) for of in (earned, returns(accounts(NO_COSTS))))
    # Within a day, from its beginning: what a drawdown is measured on, as for the other accounts.
    begun = np.vstack([np.ones(len(columns)), np.cumprod(1.0 + earned, axis=0)[:-1]])[days]
    equity = np.column_stack([account.equity / account.start_equity for account in paying])
    levels = np.concatenate(([1.0], np.cumprod(1.0 + net)[:-1]))[days]
    levels *= 1.0 + _mean_of_held(equity / begun - 1.0, held[days])
    turnover = np.mean([account.turnover for account in paying], axis=0)
    curve = tuple(
        (bps, sharpe(_mean_of_held(returns(accounts(costs.with_total(bps))), held))) for bps in COST_CURVE_BPS
    )
    return _rated(test, net, gross, levels, turnover, seed, curve=curve, capacity=math.nan)


def _mean_of_held(returns: FloatArray, held: BoolArray) -> FloatArray:
    """Mean of each row over the symbols that are held in it, 0 without any."""
    mean: FloatArray = np.where(held, returns, 0.0).sum(axis=1) / np.maximum(held.sum(axis=1), 1)
    return mean


def _rated(
    test: Panel,
    net: FloatArray,
    gross: FloatArray,
    levels: FloatArray,
    turnover: FloatArray,
    seed: int,
    *,
    curve: tuple[tuple[float, float], ...],
    capacity: float,
) -> Performance:
    """The figures of daily returns (D,); levels: net equity over its start, at any spacing."""
    interval = sharpe_interval(net, seed=seed)
    n_days = float((test.closes_at[-1] - test.ts[0]) / np.timedelta64(1, "D"))
    return Performance(
        sharpe_net=sharpe(net),
        sharpe_gross=sharpe(gross),
        sharpe_ci95=(interval.low, interval.high),
        max_drawdown=max_drawdown(levels, 1.0),
        turnover_per_day=turnover_per_day(turnover, len(net)),
        annual_return=annual_return(float(levels[-1]), 1.0, n_days),
        daily_returns=net,
        sortino=sortino(net),
        years=by_year(days_of(test.closes_at), net),
        cost_curve=curve,
        capacity=capacity,
    )


def curve_to_json(curve: tuple[tuple[float, float], ...]) -> list[dict[str, float | None]]:
    """One object a point; a ratio that is not defined is null."""
    return [{"cost_bps": cost_bps, "sharpe_net": _number(ratio)} for cost_bps, ratio in curve]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
