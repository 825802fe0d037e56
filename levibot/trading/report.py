"""The walk-forward backtest: what the signal would have earned, beside what holding would have."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from levibot import __version__
from levibot.errors import DataError
from levibot.features.side_data import attach_told
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.market_days import market_days
from levibot.learning.members import prior_weights
from levibot.learning.regime import REGIMES
from levibot.learning.regret import Regret, regrets
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalParameters
from levibot.learning.stored_past import stored_past
from levibot.learning.training import (
    SIGNAL,
    TRAINING,
    Progress,
    TrainingParameters,
    hash_panel,
    needed_bars,
)
from levibot.learning.walk_forward import Refit, Split, last_day_before, walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FloatArray, Panel, to_datetime, to_datetime64
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.allocation import Allocation, allocate
from levibot.trading.backtest import decided_at_close
from levibot.trading.costs import Costs
from levibot.trading.metrics import days_of
from levibot.trading.performance import (
    Performance,
    curve_to_json,
    holding,
    performance,
    rebalanced_daily,
)
from levibot.trading.report_curves import Curves
from levibot.trading.slices import by_regime
from levibot.trading.trials import Counted, count_trials

if TYPE_CHECKING:
    from levibot.learning.evidence.book import TrialBook
    from levibot.market.sources import Source

DEFAULT_COSTS = Costs()
_VERSIONS = ("lightgbm", "numba", "numpy", "torch", "xgboost-cpu")


@dataclass(frozen=True, slots=True)
class Report:
    """A finished backtest. `run` says how to make it again; `to_json` is what the outside reads.

    strategies: by name; the ensemble, the router, the fixed weights that both start from, each member alone,
    and two that know nothing. regrets: what each way of weighting has missed. trials: what the ledger counts
    for this market and period, this run among them.
    """

    strategies: dict[str, Performance]
    allocation: Allocation
    regrets: dict[str, Regret]
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
                name: performance.to_json()
                | self.trials.verdicts[name].to_json()
                | {"regimes": self._regimes(performance)}
                for name, performance in self.strategies.items()
            },
            "allocation": self.allocation.to_json()
            | {"regret": {name: way.to_json() for name, way in self.regrets.items()}},
            "cost_curve": curve_to_json(self.cost_curve),
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

    def curves(self) -> Curves:
        """What the page draws and the JSON does not hold: values by day."""
        return Curves(
            self.allocation.day,
            {name: of.daily_returns for name, of in self.strategies.items()},
            self.allocation.members,
            {"ensemble": self.allocation.ensemble, "router": self.allocation.routed},
            REGIMES,
            self.allocation.regimes,
        )

    def _regimes(self, of_strategy: Performance) -> dict[str, Any]:
        sliced = by_regime(of_strategy.daily_returns, self.allocation.regimes, REGIMES)
        return {name: of_regime.to_json() for name, of_regime in sliced.items()}


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
        train_start, test_end, lambda: load_panel(source, symbols, view, train_start, test_end), "backtest"
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
        opinions = walk_forward_opinions(
            past,
            splits,
            seed=seed,
            signal=signal,
            training=training,
            selection=selection,
            progress=progress,
        )
    test = panel.rows(slice(first, last))
    band = signal.no_trade_band

    def ordered(positions: FloatArray) -> FloatArray:
        return decided_at_close(positions)[first:last]

    members = {
        member: performance(test, ordered(opinions.alone(member)), costs, band, seed)
        for member in opinions.members
    }
    earned = np.column_stack([alone.daily_returns for alone in members.values()])
    allocation = allocate(
        opinions.members,
        days_of(test.closes_at),
        earned,
        market_days(panel),
        [split.fit_at for split in splits],
        seed=seed,
    )
    held = {
        "ensemble": allocation.ensemble,
        "router": allocation.routed,
        "fixed_weights": np.broadcast_to(prior_weights(opinions.members), allocation.ensemble.shape),
    }
    orders = {
        name: ordered(opinions.positions(allocation.of_rows(panel.closes_at, weights)))
        for name, weights in held.items()
    }
    strategies = {
        **{name: performance(test, of_name, costs, band, seed) for name, of_name in orders.items()},
        **members,
        "equal_weight": performance(test, rebalanced_daily(test), costs, 0.0, seed),
        "buy_and_hold": holding(test, costs, seed),
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
        "parameters": {"signal": signal.to_json(), "training": training.to_json()}
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
    return Report(
        strategies=strategies,
        allocation=allocation,
        regrets=regrets(opinions.members, earned, held),
        cost_curve=strategies["ensemble"].cost_curve,
        splits=splits,
        costs=costs,
        run=run,
        trials=counted,
    )


def load_panel(
    source: Source, symbols: tuple[str, ...], view: FeatureView, train_start: datetime, test_end: datetime
) -> Panel:
    """The bars of a backtest, with those that warm the features up. Raises DataError where there are none."""
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
