"""The audit of the pipeline that a backtest runs: the same members, weights and band, on other pasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.past import Past
from levibot.learning.selection.selection import Selection
from levibot.learning.signal import SignalParameters
from levibot.learning.training import SIGNAL, TRAINING, TrainingParameters
from levibot.learning.walk_forward import Refit, Split, walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FloatArray, to_datetime, to_datetime64
from levibot.trading.assembly import assemble_ensemble
from levibot.trading.audit import Audit, Decide, Pipeline, Say, audit
from levibot.trading.backtest_market import load_panel
from levibot.trading.conditions import CONDITIONS, Conditions
from levibot.trading.tape import Tape

if TYPE_CHECKING:
    from levibot.clock import Clock
    from levibot.learning.evidence.book import TrialBook
    from levibot.market.sources import Source


def run_audit(
    source: Source,
    symbols: tuple[str, ...],
    *,
    train_start: datetime,
    test_start: datetime,
    test_end: datetime,
    seed: int,
    trials: TrialBook,
    clock: Clock,
    conditions: Conditions = CONDITIONS,
    refit: Refit = "quarterly",
    rolling: timedelta | None = None,
    view: FeatureView = CORE,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    selection: Selection | None = None,
    is_full: bool = False,
    say: Say | None = None,
) -> Audit:
    """Audit the ensemble of `run_backtest` with the same arguments.

    Nothing of it is a score to choose by: it is not counted as a trial. A look at the hold-out is, through
    `trials`, before it is read. clock: of the machine. What an order does to the market, and what contracts
    paid, is left out: a control is another market. Raises as `run_backtest` does.
    """
    panel = trials.read(
        train_start, test_end, lambda: load_panel(source, symbols, view, train_start, test_end), "audit"
    )
    opens_at, ends_at = to_datetime(panel.ts[0]), to_datetime(panel.closes_at[-1])
    splits = walk_forward(
        *(max(train_start, opens_at), test_start, min(test_end, ends_at)), refit=refit, rolling=rolling
    )
    plain = replace(
        conditions,
        costs=replace(conditions.costs, impact_bps=0.0),
        terms=replace(conditions.terms, funded="none"),
    )
    decide = ensemble_targets(seed, plain, signal, training, selection)
    return audit(
        Pipeline(panel, view, signal.horizons_bars, splits, decide, plain.costs, signal.no_trade_band, seed),
        clock,
        is_full=is_full,
        say=say,
    )


def ensemble_targets(
    seed: int,
    conditions: Conditions,
    signal: SignalParameters,
    training: TrainingParameters,
    selection: Selection | None = None,
) -> Decide:
    """How the ensemble of a backtest decides: members, what each earns alone, the weights that follow."""

    def decide(past: Past, splits: Sequence[Split]) -> FloatArray:
        panel = past.panel
        opinions = walk_forward_opinions(
            past, splits, seed=seed, signal=signal, training=training, selection=selection
        )
        first, last = (
            int(np.searchsorted(panel.ts, to_datetime64(at)))
            for at in (splits[0].test_start, splits[-1].test_end)
        )
        if first >= last:
            raise DataError(f"There are no bars from {splits[0].test_start:%Y-%m-%d} on.")
        tape = Tape.of(panel, slice(first, last), conditions)
        assembly = assemble_ensemble(opinions, panel, splits, tape, band=signal.no_trade_band, seed=seed)
        return assembly.positions(panel, "ensemble")

    return decide
