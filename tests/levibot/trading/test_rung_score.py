"""A rung's score is that of a backtest over its folds, sees nothing behind them, and is counted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.evidence.book import TrialBook
from levibot.learning.members import prior_weights
from levibot.learning.past import ComputedPast
from levibot.learning.search.pareto import Score
from levibot.learning.search.space import SPACES, Candidate
from levibot.learning.training import TrainingParameters
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import Costs
from levibot.trading.metrics import daily_returns, max_drawdown, sharpe
from levibot.trading.rung_score import Exam, Judged, score_rung
from tests.trial_books import new_book

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
VIEW: FeatureView = CORE
QUICK = (
    SPACES["lightgbm"]
    .candidate(SPACES["lightgbm"].defaults)
    .with_values({"training.n_models": 1, "training.n_folds": 2, "training.booster.trees": 5})
)


def exam_of(panel: Panel, *, n_folds: int, judged_share: float) -> Exam:
    return Exam.of(
        ComputedPast(panel, VIEW, (8, 24)),
        view=VIEW.name,
        view_version=VIEW.version,
        costs=Costs(),
        seed=3,
        n_folds=n_folds,
        judged_share=judged_share,
        training=TrainingParameters(),
    )


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    end = MARKET_START + 3600 * HOUR
    return Panel.align({s: source.bars(s, MARKET_START, end) for s in SYMBOLS})


@pytest.fixture(scope="module")
def exam(panel: Panel) -> Exam:
    return exam_of(panel, n_folds=4, judged_share=0.4)


def by_rungs(exam: Exam, candidate: Candidate, budgets: tuple[int, ...], book: TrialBook) -> list[Score]:
    judged, scores = Judged.nothing(exam), []
    for n_folds in budgets:
        judged, score = score_rung(
            exam,
            candidate,
            judged,
            n_folds,
            trials=book,
            searched={"x": 1},
        )
        scores.append(score)
    return scores


def test_folds_follow_each_other_without_a_gap_to_the_end(exam: Exam, panel: Panel) -> None:
    assert all(a.test_end == b.test_start for a, b in zip(exam.folds, exam.folds[1:], strict=False))
    lengths = {fold.test_end - fold.test_start for fold in exam.folds}
    assert max(lengths) - min(lengths) <= HOUR
    assert exam.folds[-1].test_end == MARKET_START + 3600 * HOUR
    assert exam.folds[0].test_start == MARKET_START + 2160 * HOUR
    assert {fold.train_start for fold in exam.folds} == {MARKET_START}


def test_a_score_is_that_of_one_account_over_the_folds_and_is_counted(exam: Exam) -> None:
    book = replace(new_book(), kind="search", run_id="a search")
    scores = by_rungs(exam, QUICK, (1, 2, 4), book)
    said = walk_forward_opinions(exam.past, exam.folds, seed=3, signal=QUICK.signal, training=QUICK.training)
    targets = said.positions(prior_weights(said.members))
    panel = exam.past.panel
    test, ordered = panel.rows(slice(2160, 3600)), decided_at_close(targets)[2160:]
    account = simulate(ordered, test.open, test.close, Costs(), no_trade_band=QUICK.signal.no_trade_band)
    returns = daily_returns(test.closes_at, account.equity, account.start_equity)
    assert scores[-1] == Score(sharpe(returns), max_drawdown(account.equity, account.start_equity))

    kept = sorted(book.journal.newest(), key=lambda trial: trial.budget)
    assert [(t.budget, t.status) for t in kept] == [(0.25, "pruned"), (0.5, "pruned"), (1.0, "scored")]
    assert [t.net_sharpe for t in kept] == [score.net_sharpe for score in scores]
    assert [t.n_days for t in kept] == [15, 30, 60]
    assert len({t.configuration for t in kept}) == 1
    np.testing.assert_allclose(kept[2].daily_returns, returns, atol=1e-7)
    # However it is come to, it is the same score, and the same trial of the ledger.
    assert by_rungs(exam, QUICK, (4,), book) == scores[-1:]
    assert len(book.journal.newest()) == 3


def test_a_score_knows_nothing_of_the_bars_behind_its_folds(exam: Exam, panel: Panel) -> None:
    until = panel.rows(slice(0, 2880))
    shorter = exam_of(until, n_folds=2, judged_share=0.25)
    assert [f.test_start for f in shorter.folds] == [f.test_start for f in exam.folds[:2]]
    # The mark of a bar's own day is the same: both end at a midnight.
    assert by_rungs(shorter, QUICK, (2,), new_book()) == by_rungs(exam, QUICK, (1, 2), new_book())[1:]


def test_what_cannot_be_judged_is_refused(exam: Exam, panel: Panel) -> None:
    with pytest.raises(DataError, match="Folds 3 to 2 of 4"):
        score_rung(exam, QUICK, Judged(2, np.empty(0)), 2, trials=new_book(), searched={})
    with pytest.raises(DataError, match=r"at least \d+ bars before its first fold; there are 720"):
        exam_of(panel, n_folds=4, judged_share=0.8)
    with pytest.raises(DataError, match="cannot be judged"):
        exam_of(panel, n_folds=0, judged_share=0.5)
