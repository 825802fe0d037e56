"""The audit of the pipeline that a backtest runs: the same members, weights and band, on other pasts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.market_days import market_days
from levibot.learning.past import Past
from levibot.learning.signal import SignalParameters
from levibot.learning.training import SIGNAL, TRAINING, TrainingParameters
from levibot.learning.walk_forward import Refit, Split, walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FloatArray, to_datetime, to_datetime64
from levibot.trading.allocation import allocate
from levibot.trading.audit import Audit, Decide, Pipeline, Say, audit
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import Costs
from levibot.trading.metrics import daily_returns, days_of
from levibot.trading.report import DEFAULT_COSTS, load_panel

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
    costs: Costs = DEFAULT_COSTS,
    refit: Refit = "quarterly",
    view: FeatureView = CORE,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    is_full: bool = False,
    say: Say | None = None,
) -> Audit:
    """Audit the ensemble of `run_backtest` with the same arguments.

    Nothing of it is a score to choose by: it is not counted as a trial. A look at the hold-out is, through
    `trials`, before it is read. clock: of the machine. Raises as `run_backtest` does.
    """
    panel = trials.read(
        train_start, test_end, lambda: load_panel(source, symbols, view, train_start, test_end), "audit"
    )
    opens_at, ends_at = to_datetime(panel.ts[0]), to_datetime(panel.closes_at[-1])
    splits = walk_forward(max(train_start, opens_at), test_start, min(test_end, ends_at), refit=refit)
    decide = ensemble_targets(seed, costs, signal, training)
    return audit(
        Pipeline(panel, view, signal.horizons_bars, splits, decide, costs, signal.no_trade_band, seed),
        clock,
        is_full=is_full,
        say=say,
    )


def ensemble_targets(
    seed: int, costs: Costs, signal: SignalParameters, training: TrainingParameters
) -> Decide:
    """How the ensemble of a backtest decides: members, what each earns alone, the weights that follow."""

    def decide(past: Past, splits: Sequence[Split]) -> FloatArray:
        panel = past.panel
        opinions = walk_forward_opinions(past, splits, seed=seed, signal=signal, training=training)
        first, last = (
            int(np.searchsorted(panel.ts, to_datetime64(at)))
            for at in (splits[0].test_start, splits[-1].test_end)
        )
        if first >= last:
            raise DataError(f"There are no bars from {splits[0].test_start:%Y-%m-%d} on.")
        test = panel.rows(slice(first, last))

        def earned(member: str) -> FloatArray:
            ordered = decided_at_close(opinions.alone(member))[first:last]
            account = simulate(ordered, test.open, test.close, costs, no_trade_band=signal.no_trade_band)
            return daily_returns(test.closes_at, account.equity, account.start_equity)

        allocation = allocate(
            opinions.members,
            days_of(test.closes_at),
            np.column_stack([earned(member) for member in opinions.members]),
            market_days(panel),
            [split.fit_at for split in splits if to_datetime64(split.fit_at) < test.closes_at[-1]],
            seed=seed,
        )
        return opinions.positions(allocation.of_rows(panel.closes_at, allocation.ensemble))

    return decide
