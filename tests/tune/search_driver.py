"""A search with a tiny objective, as a process that can be killed."""

from __future__ import annotations

import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import ray

from levibot.clock import SystemClock
from levibot.errors import DataError
from levibot.learning.evidence.book import Scored, TrialBook
from levibot.learning.search.pareto import Score
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import Candidate, Dimension, Space
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.rung_score import Judged
from tune.study import Study
from tune.study_run import Running, run_trials

SPACE = Space(
    "tiny",
    ("lightgbm",),
    (
        Dimension("signal.no_trade_band", 0.002, 0.06, is_log=True),
        Dimension("training.booster.row_share", 0.0, 1.0),
    ),
)
LADDER = Ladder(n_folds=4, fewest=2)
N_SHARING = 3
LOG = "driver.log"
START, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 5, 1, tzinfo=UTC)


class TinyExaminer:
    """Two objectives that pull apart, with a ledger. Some shares of rows fail, as data can fail a fit."""

    def __init__(self, book: TrialBook) -> None:
        self._book = book

    def nothing(self) -> Judged:
        return Judged(0, np.zeros((4, 1)))

    def score(
        self, candidate: Candidate, judged: Judged, n_folds: int, *, searched: dict[str, float]
    ) -> tuple[Judged, Score]:
        band, share = candidate.signal.no_trade_band, candidate.training.booster.row_share
        # The folds that were done come out of the checkpoint, or not at all.
        if not np.array_equal(judged.targets[:, 0] > 0.0, np.arange(4) < judged.n_folds):
            raise DataError(f"The targets of {judged.n_folds} folds are {judged.targets[:, 0]}.")
        if 0.9 <= share <= 0.95:
            raise DataError("This candidate cannot be fitted.")
        time.sleep(0.03)
        score = Score(
            2.0 - abs(math.log(band / 0.01)) - share + 0.1 * n_folds, -0.3 + 0.2 * share * (1 - share)
        )
        self._book.record(
            Scored(
                data_hash="tiny",
                view="core",
                view_version="1",
                seed=1,
                parameters={"searched": dict(searched)},
                start=START,
                end=END,
                started_at=self._book.clock.now(),
                net_sharpe=score.net_sharpe,
                gross_sharpe=score.net_sharpe,
                daily_returns=np.full(30 * n_folds, 0.001),
                budget=n_folds / 4,
                status="scored" if n_folds == 4 else "pruned",
            )
        )
        targets = judged.targets.copy()
        targets[:n_folds] = 1.0
        return Judged(n_folds, targets), score


def journal(folder: Path) -> TrialJournal:
    return TrialJournal(folder / "trials.sqlite")


def study(folder: Path) -> Study:
    return Study(folder / "studies.sqlite", "tiny")


def run(cluster: str, folder: Path, n_trials: int) -> None:
    """A session; what it says goes into the log of the folder."""
    with (folder / LOG).open("a") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    ray.init(address=cluster, log_to_driver=False, logging_level="WARNING")
    book = TrialBook(journal(folder), "tiny", SystemClock(), kind="search", run_id="search-tiny")
    study(folder).make({"data_hash": "tiny"}, SPACE, LADDER, n_trials, N_SHARING)
    run_trials(study(folder), TinyExaminer(book), folder, Running(at_once=2, cpus=0.5, seed=3))
