"""The study: what is handed out, compared and kept, whoever dies in between."""

from __future__ import annotations

import json
import math
import pickle
import socket
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import optuna
import pytest
from optuna.trial import TrialState

from levibot.errors import DataError, UsageError
from levibot.learning.search.parameters_file import FoundParameters
from levibot.learning.search.pareto import Score
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import SPACES
from tune import found
from tune import study as study_module
from tune.study import Handed, Study
from tune.suggestions import N_RANDOM

SPACE, LADDER = SPACES["trading"], Ladder(4)
PLAN = {"data_hash": "d", "view": "core", "view_version": "v"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(tmp_path / "studies.sqlite", "one")
    made.make(PLAN, SPACE, LADDER, 20)
    return made


def begin(study: Study) -> int:
    handed = study.next(at_once=100, seed=1)
    assert handed is not None
    return handed[0]


def climb(study: Study, *scores: Score) -> int:
    """A trial that scores so on its rungs; it must not be stopped before its last one."""
    number = begin(study)
    for n_folds, score in zip(LADDER.budgets, scores, strict=False):
        assert study.report(number, n_folds, score) is (n_folds < 4)
    return number


def another_session(monkeypatch: pytest.MonkeyPatch, name: str = "another") -> None:
    monkeypatch.setattr(study_module, "_session", lambda: name)


GOOD = Score(1.0, -0.1)


def test_the_first_trial_is_what_is_used_without_a_search_and_no_two_are_the_same(study: Study) -> None:
    handed = [study.next(at_once=100, seed=1) for _ in range(5)]
    assert [one[0] for one in handed if one] == [0, 1, 2, 3, 4]
    assert handed[0] is not None
    assert handed[0][1] == SPACE.defaults
    assert len({json.dumps(dict(one[1])) for one in handed if one}) == 5


def test_no_more_run_at_once_than_are_wanted(study: Study) -> None:
    assert study.next(2, 1) is not None
    assert study.next(2, 1) is not None
    assert study.next(2, 1) is None
    study.fail(0, "gone")
    assert study.next(2, 1) is not None


def test_a_trial_that_others_dominate_at_its_rung_is_pruned_with_what_it_scored(study: Study) -> None:
    for _ in range(3):
        climb(study, GOOD)
    number = climb(study, Score(1.5, -0.2), Score(1.4, -0.2), Score(1.3, -0.2))
    stopped = begin(study)
    assert not study.report(stopped, 1, Score(0.5, -0.3))
    # What Optuna and its dashboard see.
    kept = optuna.load_study(study_name="one", storage=f"sqlite:///{study.path}")
    pruned, whole = kept.trials[stopped], kept.trials[number]
    assert (pruned.state, pruned.values, pruned.intermediate_values) == (TrialState.PRUNED, None, {1: 0.5})
    assert (whole.state, whole.values) == (TrialState.COMPLETE, [1.3, -0.2])
    assert whole.intermediate_values == {1: 1.5, 2: 1.4, 4: 1.3}
    assert kept.metric_names == ["net_sharpe", "max_drawdown"]
    assert study.trials()[stopped].rungs == {1: Score(0.5, -0.3)}
    assert study.counts() == {"complete": 1, "pruned": 1, "failed": 0, "running": 3, "left": 18}


def test_budgets_are_never_compared_with_each_other(study: Study) -> None:
    for _ in range(6):
        assert study.report(begin(study), 1, GOOD)
    # Worse than all on one fold, and the first on two.
    number = begin(study)
    assert study.report(number, 2, Score(-5.0, -0.9))
    # A trial that is running, or was pruned, is not of the front, however good it looked.
    assert study.report(begin(study), 1, Score(9.0, -0.01))
    assert not study.report(number, 4, Score(0.2, -0.4))
    assert [t.number for t in found.find(study, 0.5).front] == [number]


def test_a_report_that_is_repeated_changes_nothing(study: Study) -> None:
    for _ in range(4):
        climb(study, GOOD)
    stopped = begin(study)
    for _ in range(2):
        assert not study.report(stopped, 1, Score(0.0, -0.5))
    before = study.trials()
    assert not study.report(stopped, 2, Score(5.0, -0.0))
    assert study.report(0, 1, GOOD)
    assert study.trials() == before


def test_what_a_dead_session_left_behind_is_handed_out_again_before_anything_new(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.make(PLAN, SPACE, LADDER, 3)
    first, second = (study.next(2, 1) for _ in range(2))
    assert not study.is_full
    another_session(monkeypatch)
    assert study.counts()["left"] == 3
    # One of them Tune remembers, the other one is adopted.
    study.claim(1)
    assert study.next(2, 1) == first
    assert study.next(3, 1) not in (None, first, second)
    assert study.is_full
    assert len(study.trials()) == 3


def test_a_full_study_with_an_orphan_is_not_full(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.make(PLAN, SPACE, LADDER, 1)
    begin(study)
    assert study.is_full
    another_session(monkeypatch)
    assert not study.is_full


def test_a_study_goes_to_another_process_as_a_path(study: Study) -> None:
    begin(study)
    # Tune keeps its scheduler as a pickle of its own.
    again = pickle.loads(pickle.dumps(study))
    assert (again.trials(), again.ladder, again.space) == (study.trials(), LADDER, SPACE)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.make(PLAN | {"data_hash": "e"}, SPACE, LADDER, 20),
        lambda s: s.make(PLAN, SPACES["linear"], LADDER, 20),
        lambda s: s.make(PLAN, SPACE, Ladder(8), 20),
        lambda s: s.make(PLAN, SPACE, replace(LADDER, keep_share=0.5), 20),
    ],
)
def test_a_study_of_something_else_is_not_gone_on_with(study: Study, change: Callable[[Study], None]) -> None:
    with pytest.raises(UsageError, match=r"The study one is of another (data_hash|space|rungs|keep_share)"):
        change(study)


def test_suggestions_learn_from_one_rung_and_survive_pruned_trials(tmp_path: Path) -> None:
    """Optuna's own sampler fails on two objectives as soon as a trial is pruned."""
    study = Study(tmp_path / "studies.sqlite", "long")
    study.make(PLAN, SPACE, LADDER, 60)
    tried = []
    for _ in range(60):
        handed = study.next(1, 5)
        assert handed is not None
        number, values, _ = handed
        tried.append(abs(math.log(values["signal.no_trade_band"] / 0.02)))
        score = Score(1.0 - tried[-1], -0.1 - 0.1 * tried[-1])
        any(not study.report(number, n_folds, score) for n_folds in LADDER.budgets)
    counts = study.counts()
    assert counts["pruned"] > 20
    assert counts["complete"] >= 4
    assert statistics.median(tried[-15:]) < 0.5 * statistics.median(tried[1 : N_RANDOM + 1])


def test_an_account_that_never_moved_is_no_result(study: Study) -> None:
    number = climb(study, *[Score(math.nan, 0.0)] * 3)
    assert study.trials()[number].state == "failed"
    with pytest.raises(DataError, match="No trial of the study one came to all 4 folds"):
        found.find(study, 0.15)


def test_the_best_allowed_is_chosen_and_written_with_the_front(study: Study, tmp_path: Path) -> None:
    for last in (Score(2.0, -0.3), Score(1.2, -0.14), Score(1.1, -0.2), Score(0.4, -0.05)):
        climb(study, *[GOOD, GOOD, last])
    best = found.find(study, 0.15)
    assert [t.number for t in best.front] == [0, 1, 3]
    assert best.chosen.number == 1
    assert found.find(study, 0.01).chosen.number == 3
    found.write(study, best, tmp_path)
    kept = FoundParameters.read(tmp_path / found.PARAMETERS)
    assert kept.candidate == SPACE.candidate(best.chosen.values)
    assert (kept.trial, kept.score, kept.found_on) == (1, Score(1.2, -0.14), PLAN)
    record = json.loads((tmp_path / found.FRONT).read_text())
    assert [(one["trial"], one["net_sharpe"]) for one in record["front"]] == [(0, 2.0), (1, 1.2), (3, 0.4)]
    assert ET.parse(tmp_path / found.PLOT).getroot().tag.endswith("svg")


def test_the_dashboard_shows_the_study(study: Study) -> None:
    """The real one reads the file, two objectives, pruned trials and all."""
    for _ in range(4):
        climb(study, GOOD)
    study.report(begin(study), 1, Score(0.0, -0.5))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    words = [program, f"sqlite:///{study.path}", "--port", str(port), "--server", "wsgiref", "--quiet"]
    dashboard = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60.0
        while True:
            try:
                shown = httpx.get(f"http://127.0.0.1:{port}/api/studies/1?after=0", timeout=30.0).json()
                break
            except httpx.ConnectError:
                assert dashboard.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        dashboard.kill()
        dashboard.wait()
    assert shown["directions"] == ["maximize", "maximize"]
    assert [trial["state"] for trial in shown["trials"]] == ["Running"] * 4 + ["Pruned"]
    assert shown["trials"][4]["intermediate_values"] == [{"step": 1, "value": 0.0}]


def test_who_came_to_all_folds_is_followed_by_some_that_take_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACES["linear"]
    study = Study(tmp_path / "studies.sqlite", "shared")
    study.make(PLAN, space, LADDER, 20, n_sharing=3)

    def begin() -> Handed:
        handed = study.next(at_once=100, seed=1)
        assert handed is not None
        return handed

    def fit_of(handed: Handed) -> list[float]:
        return [handed.values[name] for name in space.fitted]

    first, beside_it = begin(), begin()
    assert not first.shares_fit
    assert fit_of(beside_it) != fit_of(first)
    for n_folds in LADDER.budgets:
        study.report(first.number, n_folds, GOOD)
    sharing = [begin(), begin()]
    assert all(one.shares_fit and fit_of(one) == fit_of(first) for one in sharing)
    assert len({tuple(one.values.items()) for one in (first, *sharing)}) == 3
    # They are judged on all folds at once, and are on no rung that others are compared on.
    assert not study.report(sharing[0].number, 4, Score(1.2, -0.1))
    assert study.trials()[sharing[0].number].state == "complete"
    # One that failed is not one less: the search goes on.
    study.fail(sharing[1].number, "gone")
    after = begin()
    assert not after.shares_fit
    assert fit_of(after) not in (fit_of(first), fit_of(beside_it))
    # Whoever was judging one when the session died is followed by one that knows the same of it.
    last = begin()
    study.report(beside_it.number, 4, GOOD)
    shared_next = begin()
    another_session(monkeypatch)
    assert [study.next(100, 1) for _ in range(3)] == [after, last, shared_next]
    assert (last.shares_fit, shared_next.shares_fit) == (False, True)
