"""The job that selects features, here and on a cluster, and a backtest that reads what it wrote."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.evidence.book import TrialBook
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import Knowledge
from levibot.learning.selection.boruta import BorutaParameters
from levibot.learning.selection.election import SelectionParameters
from levibot.learning.selection.selection import Selection, required_features
from levibot.learning.training import SIGNAL, TrainingParameters
from levibot.learning.walk_forward import walk_forward
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.report import Report, run_backtest
from tests.trial_books import new_book
from tune.select_features import cast_here, cast_on_cluster, main, read_source, selection_of, votes_of
from tune.training_data import of_bars

HOUR = timedelta(hours=1)
START, TEST, END = (datetime(2020, month, 1, tzinfo=UTC) for month in (1, 7, 9))
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SOURCE = SimulatedSource(SYMBOLS, HOUR, seed=5, edge=0.1)
SPLITS = walk_forward(START, TEST, END, refit="monthly")
WINDOWS = [(split.train_start, split.fit_at) for split in SPLITS]
PARAMETERS = SelectionParameters(
    mode="union",
    n_features=14,
    n_folds=2,
    max_rows=3_000,
    boruta=BorutaParameters(rounds=10, trees=5, leaves=7),
    booster=LightGBMParameters(trees=10),
)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=5), n_models=1, n_folds=2)


@pytest.fixture(scope="module")
def known() -> Knowledge:
    panel = read_source(SOURCE, SYMBOLS, CORE, START, SPLITS[-1].fit_at)
    return of_bars(panel, CORE).known


@pytest.fixture(scope="module")
def selection(known: Knowledge) -> Selection:
    return selected(known, WINDOWS)


def selected(
    known: Knowledge, windows: list[tuple[datetime, datetime]], on_cluster: bool = False
) -> Selection:
    votes = votes_of(windows, SIGNAL, PARAMETERS)
    if on_cluster:
        ballots = cast_on_cluster(known, votes, PARAMETERS, 7, "WARNING")
    else:
        ballots = cast_here(known, votes, PARAMETERS, 7)
    how = {"market_id": "m", "signal": SIGNAL, "parameters": PARAMETERS, "seed": 7}
    return selection_of(known, windows, ballots, **how)  # type: ignore[arg-type]


def backtest(selection: Selection | None, book: TrialBook) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        return run_backtest(
            SOURCE,
            SYMBOLS,
            train_start=START,
            test_start=TEST,
            test_end=END,
            seed=1,
            trials=book,
            histories=FrozenHistories(Path(folder), say=pytest.fail),
            refit="monthly",
            training=QUICK,
            selection=selection,
        )


def test_each_window_has_its_own_features(selection: Selection) -> None:
    assert [window.fit_at for window in selection.windows] == [TEST, datetime(2020, 8, 1, tzinfo=UTC)]
    required = required_features(SIGNAL)
    for window in selection.windows:
        assert window.features[: len(required)] == required
        assert len(required) < len(window.features) <= 14
        assert window.n_ballots == 4
    assert selection.windows[0].data_hash != selection.windows[1].data_hash


def test_two_folds_that_judge_together_cast_a_ballot_a_combination(known: Knowledge) -> None:
    parameters = replace(PARAMETERS, n_folds=3, n_judged=2)
    votes = votes_of(WINDOWS[:1], SIGNAL, parameters)
    assert len(votes) == 2 * 3
    chosen = selection_of(
        known,
        WINDOWS[:1],
        cast_here(known, votes, parameters, 7),
        market_id="m",
        signal=SIGNAL,
        parameters=parameters,
        seed=7,
    )
    assert chosen.windows[0].n_ballots == 6
    assert chosen.parameters["n_judged"] == 2


def test_a_later_market_changes_no_earlier_window(known: Knowledge, selection: Selection) -> None:
    first = selected(known.until(TEST), WINDOWS[:1])
    assert first.windows == selection.windows[:1]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_the_cluster_elects_what_one_process_elects(
    cluster: None, known: Knowledge, selection: Selection
) -> None:
    assert selected(known, WINDOWS[:1], on_cluster=True).windows == selection.windows[:1]


def test_a_backtest_reads_the_features_of_its_stretches_and_is_another_trial(selection: Selection) -> None:
    book = new_book()
    whole, chosen = backtest(None, book), backtest(selection, book)
    assert "selection" not in whole.run["parameters"]
    assert chosen.run["parameters"]["selection"] == selection.sha256
    assert chosen.ensemble.sharpe_net != whole.ensemble.sharpe_net
    # The rules read what is required and nothing else.
    assert chosen.strategies["trend"].sharpe_net == whole.strategies["trend"].sharpe_net
    ensembles = [t for t in book.journal.newest() if t.parameters["strategy"] == "ensemble"]
    assert {t.parameters.get("selection") for t in ensembles} == {None, selection.sha256}
    # One run gives both, and what it does without the selection is the trial that was counted already.
    for name in ("ensemble", "router", "vote", "fixed_weights", "lightgbm"):
        np.testing.assert_array_equal(
            chosen.strategies[f"{name}_unselected"].daily_returns, whole.strategies[name].daily_returns
        )
    assert "trend_unselected" not in chosen.strategies
    assert len(ensembles) == 2
    pairs = [(p["first"], p["second"]) for p in chosen.to_json()["comparisons"]["paired"]]
    assert ("ensemble", "ensemble_unselected") in pairs
    # All features, selected: the same numbers as without.
    everything = replace(selection, windows=tuple(replace(w, features=CORE.names) for w in selection.windows))
    assert backtest(everything, new_book()).ensemble.sharpe_net == whole.ensemble.sharpe_net


def test_a_selection_that_was_made_later_is_refused(selection: Selection) -> None:
    with pytest.raises(DataError, match="No features were selected by 2020-07-01"):
        backtest(replace(selection, windows=selection.windows[1:]), new_book())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"mode": "all"}, "select: The mode is 'all': it must be vote or union.\n"),
        ({"test_start": TEST}, "select: The windows of a backtest take --test-start and --test-end.\n"),
        ({"view": "none"}, "select: There is no feature view 'none'. Views: core, full.\n"),
    ],
)
def test_a_job_that_cannot_run_ends_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: dict[str, object], line: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(tmp_path / "x.json", **arguments)  # type: ignore[arg-type]
    assert ended.value.code == 2
    assert capsys.readouterr().err == line
