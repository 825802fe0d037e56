"""The walk-forward backtest: what the signal would have earned, beside what holding would have."""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from levibot import __version__
from levibot.errors import DataError
from levibot.features.side_data import attach_told
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalParameters
from levibot.learning.stored_past import stored_past
from levibot.learning.targets import walk_forward_targets
from levibot.learning.training import (
    SIGNAL,
    TRAINING,
    Progress,
    TrainingParameters,
    hash_panel,
    needed_bars,
)
from levibot.learning.walk_forward import BoolArray, Refit, Split, last_day_before, walk_forward
from levibot.market.bars import FloatArray, Panel, to_datetime, to_datetime64
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.backtest import BacktestResult, decided_at_close, simulate
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.metrics import (
    annual_return,
    daily_returns,
    max_drawdown,
    sharpe,
    sharpe_interval,
    turnover_per_day,
)
from levibot.trading.trials import Counted, count_trials

if TYPE_CHECKING:
    from levibot.learning.evidence.book import TrialBook
    from levibot.market.sources import Source

COST_CURVE_BPS = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0)
DEFAULT_COSTS = Costs()
_VERSIONS = ("lightgbm", "numba", "numpy")


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


@dataclass(frozen=True, slots=True)
class Report:
    """A finished backtest. `run` says how to make it again; `to_json` is what the outside reads.

    trials: what the ledger counts for this market and period, this run among them.
    """

    strategies: dict[str, Performance]
    cost_curve: tuple[tuple[float, float], ...]
    splits: tuple[Split, ...]
    costs: Costs
    run: dict[str, Any]
    trials: Counted

    @property
    def ensemble(self) -> Performance:
        return self.strategies["ensemble"]

    @property
    def buy_and_hold(self) -> Performance:
        return self.strategies["buy_and_hold"]

    @property
    def equal_weight(self) -> Performance:
        return self.strategies["equal_weight"]

    def to_json(self) -> dict[str, Any]:
        """JSON values only; what is not defined is null."""
        return {
            **{
                name: performance.to_json() | self.trials.verdicts[name].to_json()
                for name, performance in self.strategies.items()
            },
            "cost_curve": [
                {"cost_bps": cost_bps, "sharpe_net": _number(ratio)} for cost_bps, ratio in self.cost_curve
            ],
            "period": {
                "train_start": self.splits[0].train_start.isoformat(),
                "test_start": self.splits[0].test_start.isoformat(),
                "test_end": self.splits[-1].last_day.isoformat(),
                "days": len(self.ensemble.daily_returns),
                "fits": [split.fit_at.isoformat() for split in self.splits],
            },
            "costs": {**asdict(self.costs), "total_bps": self.costs.total_bps},
            "run": self.run,
            "trials": self.trials.to_json(),
        }


def run_backtest(
    source: Source,
    symbols: tuple[str, ...],
    *,
    train_start: datetime,
    test_start: datetime,
    test_end: datetime,
    seed: int,
    trials: TrialBook,
    histories: FrozenHistories,
    costs: Costs = DEFAULT_COSTS,
    refit: Refit = "quarterly",
    view: FeatureView = CORE,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    selection: Selection | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train on the past, trade the next stretch, move on; then the account over the whole test period.

    train_start, test_start, test_end: aware; the test runs over [test_start, test_end), or to the end of the
        last bar where the market ends earlier. See `end_of_day` for an end that is given as a date. Features
        may warm up on bars before train_start.
    trials: where every strategy of the report is counted, and a look at the hold-out before it is read.
    histories: where the features and labels of this market are, or are put for the next run.
    selection: of the view's features; each stretch reads those that were selected by its beginning.
    Each stretch is traded by a model made at its beginning, from what the history says was known by then.
    Decisions are taken at closes and filled at the next open, the first of them at the open of test_start.
    Raises DataError when the history is too short, StoreError when a trial cannot be counted, and what the
    source raises.
    """
    walk_forward(train_start, test_start, test_end, refit=refit)  # Refuses a wrong order before any work.
    started_at = trials.clock.now()
    panel = trials.read(
        train_start, test_end, lambda: _load(source, symbols, view, train_start, test_end), "backtest"
    )
    first, last = (int(np.searchsorted(panel.ts, to_datetime64(at))) for at in (test_start, test_end))
    if first == last:
        raise DataError(
            f"There are no bars from {test_start:%Y-%m-%d} to {last_day_before(test_end):%Y-%m-%d}."
        )
    needed = needed_bars(len(symbols), signal, training)
    if first < needed:
        raise DataError(
            f"A backtest from {test_start:%Y-%m-%d} needs at least {needed} bars before that; "
            f"there are {first}."
        )
    trials.journal.make()
    # The report names the period that the market has, not a longer one that was asked for.
    opens_at, ends_at = to_datetime(panel.ts[0]), to_datetime(panel.closes_at[-1])
    splits = walk_forward(max(train_start, opens_at), test_start, min(test_end, ends_at), refit=refit)
    with stored_past(histories, panel, view, signal.horizons_bars) as past:
        targets = walk_forward_targets(
            past,
            splits,
            seed=seed,
            signal=signal,
            training=training,
            selection=selection,
            progress=progress,
        )
    test = panel.rows(slice(first, last))
    ordered = decided_at_close(targets)[first:last]
    band = signal.no_trade_band
    curve = tuple(
        (bps, sharpe(_returns(test, _account(test, ordered, costs.with_total(bps), band))))
        for bps in COST_CURVE_BPS
    )
    strategies = {
        "ensemble": _performance(test, ordered, costs, band, seed),
        "buy_and_hold": _holding(test, costs, seed),
        "equal_weight": _performance(test, rebalanced_daily(test), costs, 0.0, seed),
    }
    run = {
        "source": source.name,
        "symbols": list(symbols),
        "interval_s": panel.interval.total_seconds(),
        "bars": len(panel),
        "data_hash": hash_panel(panel),
        "view": view.name,
        "view_version": view.version,
        "seed": seed,
        "refit": refit,
        "parameters": {"signal": signal.to_json(), "training": asdict(training)}
        | ({} if selection is None else {"selection": selection.sha256}),
        "versions": {"levibot": __version__} | {name: importlib.metadata.version(name) for name in _VERSIONS},
    }
    counted = count_trials(
        trials,
        strategies,
        run=run,
        costs=asdict(costs),
        start=splits[0].test_start,
        end=splits[-1].test_end,
        started_at=started_at,
    )
    return Report(strategies, curve, splits, costs, run, counted)


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


def _load(
    source: Source, symbols: tuple[str, ...], view: FeatureView, train_start: datetime, test_end: datetime
) -> Panel:
    market_start, _ = source.extent()
    if test_end <= market_start:
        raise DataError(
            f"The market begins on {market_start:%Y-%m-%d}, after the test, which is to end on "
            f"{last_day_before(test_end):%Y-%m-%d}."
        )
    start = max(market_start, train_start - view.warmup_bars * source.interval)
    bars = {symbol: source.bars(symbol, start, test_end) for symbol in symbols}
    empty = [symbol for symbol, of_symbol in bars.items() if len(of_symbol) == 0]
    if empty:
        raise DataError(
            f"{empty[0]} has no bars from {start:%Y-%m-%d} to {last_day_before(test_end):%Y-%m-%d}."
        )
    return attach_told(Panel.align(bars), source, view)


def _account(test: Panel, ordered: FloatArray, costs: Costs, band: float) -> BacktestResult:
    return simulate(ordered, test.open, test.close, costs, no_trade_band=band)


def _returns(test: Panel, result: BacktestResult) -> FloatArray:
    return daily_returns(test.closes_at, result.equity, result.start_equity)


def _performance(test: Panel, ordered: FloatArray, costs: Costs, band: float, seed: int) -> Performance:
    net = _account(test, ordered, costs, band)
    gross = _account(test, ordered, NO_COSTS, band)
    levels = net.equity / net.start_equity
    return _rated(test, _returns(test, net), _returns(test, gross), levels, net.turnover, seed)


def _holding(test: Panel, costs: Costs, seed: int) -> Performance:
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
