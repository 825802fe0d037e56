"""What orders would have earned over a test period, in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.market.bars import BoolArray, FloatArray, Panel
from levibot.trading.backtest import BacktestResult, simulate
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.metrics import (
    annual_return,
    daily_returns,
    max_drawdown,
    sharpe,
    sharpe_interval,
    turnover_per_day,
)


@dataclass(frozen=True, slots=True)
class Performance:
    """One strategy over the test period. Ratios are NaN where they are not defined.

    sharpe_net, sharpe_gross: annualised from daily returns, with and without costs. sharpe_ci95: stationary
    bootstrap of sharpe_net. max_drawdown: <= 0. turnover_per_day: traded value over equity. annual_return:
    compound, net. daily_returns: (D,) net, one a UTC day.
    """

    sharpe_net: float
    sharpe_gross: float
    sharpe_ci95: tuple[float, float]
    max_drawdown: float
    turnover_per_day: float
    annual_return: float
    daily_returns: FloatArray

    def to_json(self) -> dict[str, Any]:
        return {
            "sharpe_net": _number(self.sharpe_net),
            "sharpe_gross": _number(self.sharpe_gross),
            "sharpe_ci95": [_number(bound) for bound in self.sharpe_ci95],
            "max_drawdown": _number(self.max_drawdown),
            "turnover_per_day": _number(self.turnover_per_day),
            "annual_return": _number(self.annual_return),
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


def ratio_at(test: Panel, ordered: FloatArray, costs: Costs, band: float) -> float:
    """The net Sharpe ratio alone, under other costs."""
    return sharpe(_returns(test, _account(test, ordered, costs, band)))


def _account(test: Panel, ordered: FloatArray, costs: Costs, band: float) -> BacktestResult:
    return simulate(ordered, test.open, test.close, costs, no_trade_band=band)


def _returns(test: Panel, result: BacktestResult) -> FloatArray:
    return daily_returns(test.closes_at, result.equity, result.start_equity)


def performance(test: Panel, ordered: FloatArray, costs: Costs, band: float, seed: int) -> Performance:
    """The figures of one account. ordered: (T, S) fractions of equity on the bar that each fills on."""
    net = _account(test, ordered, costs, band)
    gross = _account(test, ordered, NO_COSTS, band)
    levels = net.equity / net.start_equity
    return _rated(test, _returns(test, net), _returns(test, gross), levels, net.turnover, seed)


def holding(test: Panel, costs: Costs, seed: int) -> Performance:
    """The mean of one account a symbol that buys on its first bar and holds.

    A day's return is the mean over the symbols held that day, so no coin outweighs the others after a rally:
    the usual yardstick, and a hard one, since nothing is paid for keeping the weights equal.
    """
    orders = bought_once(test)
    columns = [s for s in range(len(test.symbols)) if not np.isnan(orders[:, s]).all()]
    accounts = {
        paid: [simulate(orders[:, [s]], test.open[:, [s]], test.close[:, [s]], paid) for s in columns]
        for paid in (costs, NO_COSTS)
    }
    days = (test.ts.astype("datetime64[D]") - test.ts[0].astype("datetime64[D]")).astype(np.int64)
    bought_on = days[np.isfinite(orders[:, columns]).argmax(axis=0)]
    returns = {
        paid: np.column_stack([_returns(test, account) for account in of_symbols])
        for paid, of_symbols in accounts.items()
    }
    held = np.arange(days[-1] + 1)[:, None] >= bought_on
    net, gross = (_mean_of_held(returns[paid], held) for paid in (costs, NO_COSTS))
    # Within a day, from its beginning: what a drawdown is measured on, as for the other accounts.
    begun = np.vstack([np.ones(len(columns)), np.cumprod(1.0 + returns[costs], axis=0)[:-1]])[days]
    equity = np.column_stack([account.equity / account.start_equity for account in accounts[costs]])
    levels = np.concatenate(([1.0], np.cumprod(1.0 + net)[:-1]))[days]
    levels *= 1.0 + _mean_of_held(equity / begun - 1.0, held[days])
    turnover = np.mean([account.turnover for account in accounts[costs]], axis=0)
    return _rated(test, net, gross, levels, turnover, seed)


def _mean_of_held(returns: FloatArray, held: BoolArray) -> FloatArray:
    """Mean of each row over the symbols that are held in it, 0 without any."""
    mean: FloatArray = np.where(held, returns, 0.0).sum(axis=1) / np.maximum(held.sum(axis=1), 1)
    return mean


def _rated(
    test: Panel, net: FloatArray, gross: FloatArray, levels: FloatArray, turnover: FloatArray, seed: int
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
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
