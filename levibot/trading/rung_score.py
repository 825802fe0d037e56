"""The score of a candidate on the first folds of a search, as a backtest of these folds gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from levibot.errors import DataError
from levibot.learning.evidence.book import Scored
from levibot.learning.members import prior_weights
from levibot.learning.past import Past
from levibot.learning.search.pareto import Score
from levibot.learning.search.space import Candidate
from levibot.learning.training import Fit, TrainingParameters, hash_panel, needed_bars, train
from levibot.learning.walk_forward import Split
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FloatArray, to_datetime, to_datetime64
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.metrics import daily_returns, max_drawdown, sharpe

if TYPE_CHECKING:
    from levibot.learning.evidence.book import TrialBook


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """What every candidate of a search is judged by.

    folds: stretches of equal length that follow each other, oldest first. Each is traded by a model that was
    fitted on all before it, so that the first k of them are one account without a gap. Nothing outside the
    past's panel is read: what is tested later is to lie behind it.
    """

    past: Past
    folds: tuple[Split, ...]
    view: str
    view_version: str
    data_hash: str
    costs: Costs
    seed: int

    @classmethod
    def of(
        cls,
        past: Past,
        *,
        view: str,
        view_version: str,
        costs: Costs,
        seed: int,
        n_folds: int,
        judged_share: float,
        training: TrainingParameters,
        train_start: datetime | None = None,
    ) -> Self:
        """Cut the newest `judged_share` of the past into folds; what is before only teaches.

        training: of the candidates; it says how many bars must be before the first fold.
        Raises DataError when too little is before the first fold.
        """
        panel = past.panel
        if n_folds < 1 or not 0.0 < judged_share < 1.0:
            raise DataError(f"{n_folds} folds of {judged_share} of the past cannot be judged.")
        begin = max(train_start, to_datetime(panel.ts[0])) if train_start else to_datetime(panel.ts[0])
        end = to_datetime(panel.closes_at[-1])
        # On bars, so that no bar lies across an edge.
        at = np.linspace((1.0 - judged_share) * len(panel), len(panel), n_folds + 1).round().astype(int)
        edges = [*(to_datetime(panel.ts[row]) for row in at[:-1]), end]
        needed = needed_bars(len(panel.symbols), training=training)
        if at[0] < needed or len(set(edges)) < n_folds + 1 or edges[0] <= begin:
            raise DataError(
                f"A search needs at least {needed} bars before its first fold; there are {at[0]}.",
                hint="Load more history, or judge a smaller share of it.",
            )
        folds = tuple(Split(begin, first, last) for first, last in pairwise(edges))
        return cls(past, folds, view, view_version, hash_panel(panel), costs, seed)

    def to_json(self) -> dict[str, Any]:
        """What makes two searches comparable; JSON values."""
        return {
            "data_hash": self.data_hash,
            "view": self.view,
            "view_version": self.view_version,
            "symbols": list(self.past.panel.symbols),
            "train_start": self.folds[0].train_start.isoformat(),
            "folds": [fold.test_start.isoformat() for fold in self.folds],
            "end": self.folds[-1].test_end.isoformat(),
            "costs": asdict(self.costs),
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """The folds that a candidate has been through. targets: (T, S) of the past's panel, NaN elsewhere."""

    n_folds: int
    targets: FloatArray

    @classmethod
    def nothing(cls, exam: Exam) -> Self:
        return cls(0, np.full(exam.past.panel.open.shape, np.nan))


def score_rung(
    exam: Exam,
    candidate: Candidate,
    judged: Judged,
    n_folds: int,
    *,
    trials: TrialBook,
    searched: Mapping[str, Any],
    fit: Fit = train,
) -> tuple[Judged, Score]:
    """Judge a candidate on its next folds, up to `n_folds`, and count the score before anybody has it.

    judged: the folds it has been through; they are not fitted again. searched: where it lies in the space, as
    the ledger keeps it. fit: makes the models. Below all folds the ledger has it as pruned: scored on less
    than it was to get. The same exam, candidate and folds give the same score, however they were come to.
    Raises DataError when too few rows can teach, StoreError when the score cannot be counted.
    """
    if not judged.n_folds < n_folds <= len(exam.folds):
        raise DataError(f"Folds {judged.n_folds + 1} to {n_folds} of {len(exam.folds)} cannot be judged.")
    started_at = trials.clock.now()
    said = walk_forward_opinions(
        exam.past,
        exam.folds[judged.n_folds : n_folds],
        seed=exam.seed,
        signal=candidate.signal,
        training=candidate.training,
        fit=fit,
    )
    new = said.positions(prior_weights(said.members))
    targets = np.where(np.isnan(new), judged.targets, new)
    panel = exam.past.panel
    first, last = (
        int(np.searchsorted(panel.ts, to_datetime64(at)))
        for at in (exam.folds[0].test_start, exam.folds[n_folds - 1].test_end)
    )
    test, ordered = panel.rows(slice(first, last)), decided_at_close(targets)[first:last]
    band = candidate.signal.no_trade_band
    net, gross = (
        simulate(ordered, test.open, test.close, costs, no_trade_band=band)
        for costs in (exam.costs, NO_COSTS)
    )
    earned, before_costs = (daily_returns(test.closes_at, a.equity, a.start_equity) for a in (net, gross))
    score = Score(sharpe(earned), max_drawdown(net.equity, net.start_equity))
    trials.record(
        Scored(
            data_hash=exam.data_hash,
            view=exam.view,
            view_version=exam.view_version,
            seed=exam.seed,
            parameters={
                "strategy": "ensemble",
                "costs": asdict(exam.costs),
                "symbols": list(panel.symbols),
                "searched": dict(searched),
                "parameters": candidate.to_json(),
            },
            start=exam.folds[0].test_start,
            end=exam.folds[-1].test_end,
            started_at=started_at,
            net_sharpe=score.net_sharpe,
            gross_sharpe=sharpe(before_costs),
            daily_returns=earned,
            budget=n_folds / len(exam.folds),
            status="scored" if n_folds == len(exam.folds) else "pruned",
        )
    )
    return Judged(n_folds, targets), score
