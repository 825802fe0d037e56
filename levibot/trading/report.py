"""The walk-forward backtest: what the signal would have earned, beside what holding would have."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from levibot import __version__
from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.members import RULES
from levibot.learning.regime import REGIMES
from levibot.learning.regret import Regret, regrets
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalParameters
from levibot.learning.stated import Stated, stated
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
from levibot.learning.walk_forward_opinions import Walk, walk_forward_opinions
from levibot.market.bars import to_datetime, to_datetime64
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.allocation import Allocation
from levibot.trading.assembly import Assembly, assemble_ensemble
from levibot.trading.backtest_market import funding_told, load_panel
from levibot.trading.comparisons import UNSELECTED, Comparisons, compare
from levibot.trading.conditions import CONDITIONS, Conditions
from levibot.trading.funding import told
from levibot.trading.performance import (
    Performance,
    curve_to_json,
    holding,
    performance,
    rebalanced_daily,
)
from levibot.trading.report_curves import Curves
from levibot.trading.slices import by_regime
from levibot.trading.tape import Tape
from levibot.trading.trials import Counted, count_trials

if TYPE_CHECKING:
    from levibot.learning.evidence.book import TrialBook
    from levibot.market.sources import Source

_VERSIONS = ("lightgbm", "numba", "numpy", "torch", "xgboost-cpu")


@dataclass(frozen=True, slots=True)
class Report:
    """A finished backtest. `run` says how to make it again; `to_json` is what the outside reads.

    strategies: by name; the ensemble, the router, the vote, the fixed weights that all three start from, each
    member alone, and two that know nothing; with a selection, the learned ones without it too. regrets: what
    each way of weighting has missed. trials: what the ledger counts for this market and period, this run
    among them.
    """

    strategies: dict[str, Performance]
    assembly: Assembly
    regrets: dict[str, Regret]
    comparisons: Comparisons
    stated: Stated
    cost_curve: tuple[tuple[float, float], ...]
    splits: tuple[Split, ...]
    conditions: Conditions
    run: dict[str, Any]
    trials: Counted

    @property
    def allocation(self) -> Allocation:
        return self.assembly.allocation

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
        costs = self.conditions.costs
        return {
            **{
                name: performance.to_json()
                | self.trials.verdicts[name].to_json()
                | {"regimes": self._regimes(performance)}
                for name, performance in self.strategies.items()
            },
            "allocation": self.allocation.to_json()
            | {"votes": [vote.to_json() for vote in self.assembly.votes]}
            | {"regret": {name: way.to_json() for name, way in self.regrets.items()}},
            "comparisons": self.comparisons.to_json(),
            "calibration": self.stated.to_json(),
            "cost_curve": curve_to_json(self.cost_curve),
            "period": {
                "train_start": self.splits[0].train_start.isoformat(),
                "test_start": self.splits[0].test_start.isoformat(),
                "test_end": self.splits[-1].last_day.isoformat(),
                "days": len(self.ensemble.daily_returns),
                "fits": [split.fit_at.isoformat() for split in self.splits],
            },
            "costs": {**asdict(costs), "total_bps": costs.total_bps},
            "run": self.run,
            "trials": self.trials.to_json(),
        }

    def curves(self) -> Curves:
        """What the page draws and the JSON does not hold: values by day."""
        return Curves(
            self.allocation.day,
            {name: of.daily_returns for name, of in self.strategies.items()},
            self.allocation.members,
            {name: self.assembly.held[name] for name in ("ensemble", "router", "vote")},
            REGIMES,
            self.allocation.regimes,
            self.splits,
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
    conditions: Conditions = CONDITIONS,
    refit: Refit = "quarterly",
    rolling: timedelta | None = None,
    view: FeatureView = CORE,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    selection: Selection | None = None,
    progress: Progress | None = None,
    walk: Walk | None = None,
) -> Report:
    """Train on the past, trade the next stretch, move on; then the account over the whole test period.

    train_start, test_start, test_end: aware; the test runs over [test_start, test_end), or to the end of the
        last bar where the market ends earlier. See `end_of_day` for an end that is given as a date. Features
        may warm up on bars before train_start.
    trials: where every strategy of the report is counted, and a look at the hold-out before it is read.
    histories: where the features and labels of this market are, or are put for the next run.
    rolling: what each model learns from at most, before its stretch; all since train_start where left out.
    selection: of the view's features; each stretch reads those that were selected by its beginning, and the
        same is done once more without it.
    walk: who fits and decides; see `walk_forward_opinions`.
    Each stretch is traded by a model made at its beginning, from what the history says was known by then.
    Decisions are taken at closes and filled at the next open, the first of them at the open of test_start.
    Raises DataError when the history is too short, StoreError when a trial cannot be counted, and what the
    source raises.
    """
    # Refuses a wrong order before any work.
    walk_forward(train_start, test_start, test_end, refit=refit, rolling=rolling)
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
    funding = funding_told(source, panel, conditions)
    tape = Tape.of(panel, slice(first, last), conditions, funding)
    trials.journal.make()
    # The report names the period that the market has, not a longer one that was asked for.
    opens_at, ends_at = to_datetime(panel.ts[0]), to_datetime(panel.closes_at[-1])
    splits = walk_forward(
        *(max(train_start, opens_at), test_start, min(test_end, ends_at)), refit=refit, rolling=rolling
    )
    band = signal.no_trade_band
    with stored_past(histories, panel, view, signal.horizons_bars) as past:

        def _assembled(chosen: Selection | None) -> Assembly:
            opinions = walk_forward_opinions(
                past,
                splits,
                seed=seed,
                signal=signal,
                training=training,
                selection=chosen,
                progress=progress,
                walk=walk,
            )
            return assemble_ensemble(opinions, panel, splits, tape, band=band, seed=seed)

        assembly = _assembled(selection)
        unselected = None if selection is None else _assembled(None)

    def _performances(of: Assembly) -> dict[str, Performance]:
        positions = {way: of.positions(panel, way) for way in of.held}
        positions |= {member: of.opinions.alone(member) for member in of.opinions.members}
        return {name: performance(tape, tape.ordered(said), band, seed) for name, said in positions.items()}

    strategies = _performances(assembly)
    if unselected is not None:
        # Rules read the same features with and without.
        strategies |= {
            name + UNSELECTED: of for name, of in _performances(unselected).items() if name not in RULES
        }
    strategies |= {
        "equal_weight": performance(tape, rebalanced_daily(tape.test), 0.0, seed),
        "buy_and_hold": holding(tape, seed),
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
        | ({} if selection is None else {"selection": selection.sha256})
        | ({} if rolling is None else {"rolling_days": rolling / timedelta(days=1)}),
        "conditions": conditions.departures()
        | ({} if funding is None else {"funding_payments": told(tape.test, funding[first:last])}),
        "versions": {"levibot": __version__} | {name: importlib.metadata.version(name) for name in _VERSIONS},
    }
    counted = count_trials(
        trials,
        strategies,
        run=run,
        costs=asdict(conditions.costs),
        start=splits[0].test_start,
        end=splits[-1].test_end,
        started_at=started_at,
    )
    return Report(
        strategies=strategies,
        assembly=assembly,
        regrets=regrets(assembly.opinions.members, assembly.earned, assembly.held),
        comparisons=compare({name: of.daily_returns for name, of in strategies.items()}, seed=seed),
        stated=stated(assembly.opinions, panel, splits, max(signal.horizons_bars)),
        cost_curve=strategies["ensemble"].cost_curve,
        splits=splits,
        conditions=conditions,
        run=run,
        trials=counted,
    )
