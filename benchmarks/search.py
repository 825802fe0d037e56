"""How long a search takes to the Pareto front of a plain one: `python -m benchmarks.search`.

The reference is Optuna's own loop: one trial after the other, every one judged on all folds, nothing pruned,
each fitted anew; its fits use both cores as ours do. Ours is `tune.search` on a Ray cluster of two cores that
is up already, with the same space and folds: it prunes, and judges many candidates with the models of one.
The hypervolume that counts is the lower one of the two fronts in the end, and ours must come close to the
other's; each side is timed to the trial that reached it. Both fit real models on the same simulated market
with a planted edge; every repeat has another market and other seeds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Self

import numpy as np
import optuna
import psutil
import ray

from benchmarks.comparison import QUICK_REPEATS, arguments, compare, report
from levibot.clock import SystemClock
from levibot.features.views import CORE
from levibot.learning.evidence.book import TrialBook
from levibot.learning.past import ComputedPast
from levibot.learning.search.kept_models import KeptModels
from levibot.learning.search.pareto import Score, hypervolume
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import SPACES, Candidate, Space
from levibot.learning.training import Fit, train
from levibot.market.bars import Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.costs import Costs
from levibot.trading.rung_score import Exam, Judged, score_rung
from tune.study import Study
from tune.study_run import Running, run_trials
from tune.suggestions import N_RANDOM, distributions

SYMBOLS = ("BTCUSDT", "ETHUSDT")
HOUR = timedelta(hours=1)
N_BARS, N_FOLDS, REPEATS = 6_000, 8, 3
FIRST_SEED = 7
# Less than is searched in earnest, so that the benchmark ends within the hour. Most of ours share models.
N_TRIALS, N_TRIALS_QUICK = 24, 6
N_OURS, N_OURS_QUICK = 96, 30
# Below every account that is worth a look; what lies under it adds nothing.
WORST = Score(-3.0, -0.6)
SPACE = SPACES["lightgbm"]
# Half of the fits of a search in earnest, so that Ray's overhead weighs more here than in earnest.
LIGHTER = {"training.n_models": 1, "training.n_folds": 2}


class LightExaminer:
    """The market's judgement with fewer fits a fold. fit: makes the models."""

    def __init__(self, exam: Exam, book: TrialBook, fit: Fit = train) -> None:
        self._exam = exam
        self._book = book
        self._fit = fit

    def nothing(self) -> Judged:
        return Judged.nothing(self._exam)

    def score(
        self, candidate: Candidate, judged: Judged, n_folds: int, *, searched: Mapping[str, float]
    ) -> tuple[Judged, Score]:
        lighter = candidate.with_values(LIGHTER)
        return score_rung(
            self._exam, lighter, judged, n_folds, trials=self._book, searched=searched, fit=self._fit
        )


@dataclass(frozen=True, slots=True)
class Way:
    """A search as it went: after how many seconds each trial was complete, and what it scored.

    cpu_s: of all processes of this side, by then. n_fits: how many trainings there are among the trials.
    """

    at_s: Sequence[float]
    scores: Sequence[Score]
    cpu_s: Sequence[float]
    n_fits: int

    def area(self) -> float:
        return hypervolume(self.scores, WORST)

    def trials_to(self, area: float) -> int:
        """Complete ones until the front had this hypervolume. Raises ValueError where it never had."""
        for n in range(1, len(self.scores) + 1):
            if hypervolume(self.scores[:n], WORST) >= area * (1.0 - 1e-12):
                return n
        raise ValueError(f"The front never reached a hypervolume of {area}.")


class Meter:
    """Reads twice a second what CPU this process and all that it has started have used, the ended ones too.

    Wall-clock on a shared machine says as much of the others as of us.
    """

    def __init__(self) -> None:
        self._read: list[tuple[float, float]] = []
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._read.append((time.time(), _cpu_s()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def cpu_s_at(self, at: float) -> float:
        """Since the beginning; at: seconds since 1970."""
        instants, spent = zip(*self._read, strict=True)
        return float(np.interp(at, instants, spent) - spent[0])

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            self._read.append((time.time(), _cpu_s()))
        self._read.append((time.time(), _cpu_s()))


def _cpu_s() -> float:
    own = psutil.Process()
    spent = 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:4])
    return spent


def plain(examiner: LightExaminer, space: Space, n_trials: int, seed: int) -> Way:
    """Optuna without Ray, one trial after the other, each on all folds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_RANDOM, multivariate=True)
    study = optuna.create_study(directions=("maximize", "maximize"), sampler=sampler)
    study.enqueue_trial(space.defaults)
    begun, spent = time.perf_counter(), time.process_time()
    at_s: list[float] = []
    scores: list[Score] = []
    cpu_s: list[float] = []
    for _ in range(n_trials):
        trial = study.ask(distributions(space))
        _, score = examiner.score(
            space.candidate(trial.params), examiner.nothing(), N_FOLDS, searched=dict(trial.params)
        )
        if score.is_defined:
            study.tell(trial, values=[score.net_sharpe, score.max_drawdown])
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        at_s.append(time.perf_counter() - begun)
        cpu_s.append(time.process_time() - spent)
        scores.append(score)
    return Way(at_s, scores, cpu_s, n_trials)


def ours(examiner: LightExaminer, space: Space, n_trials: int, seed: int, folder: Path) -> Way:
    """`tune.search` on the cluster that is up; its workers start within the time."""
    study = Study(folder / "studies.sqlite", f"seed-{seed}")
    study.make({}, space, Ladder(N_FOLDS), n_trials)
    begun = time.time()
    # Tune says on standard output how it goes.
    with redirect_stdout(sys.stderr), Meter() as meter:
        run_trials(study, examiner, folder / f"seed-{seed}", Running(at_once=2, cpus=1.0, seed=seed))
    done = sorted(study.completed(), key=lambda one: one[0])
    fits = {tuple(t.values[name] for name in space.fitted) for t in study.trials()}
    return Way(
        [at - begun for at, _ in done],
        [score for _, score in done],
        [meter.cpu_s_at(at) for at, _ in done],
        len(fits),
    )


def exam_of(seed: int) -> Exam:
    """What both sides are judged by: folds of one simulated market."""
    source = SimulatedSource(SYMBOLS, HOUR, seed=seed, edge=0.05)
    end = MARKET_START + N_BARS * HOUR
    panel = Panel.align({symbol: source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS})
    return Exam.of(
        ComputedPast(panel, CORE, (8, 24)),
        view=CORE.name,
        view_version=CORE.version,
        costs=Costs(),
        seed=seed,
        n_folds=N_FOLDS,
        judged_share=0.6,
        training=Candidate().with_values(LIGHTER).training,
    )


def main() -> None:
    wanted = arguments("the time of a search to the Pareto front of a plain one")
    n_trials, n_ours = (N_TRIALS_QUICK, N_OURS_QUICK) if wanted.quick else (N_TRIALS, N_OURS)
    # A socket's path is short, so Ray has a folder of its own.
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:
        folder = Path(place)
        book = TrialBook(
            TrialJournal(folder / "trials.sqlite"), "simulated", SystemClock(), kind="search", run_id="bench"
        )
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
            _temp_dir=ray_folder,
        )

        @cache
        def pair(seed: int) -> tuple[Way, Way]:
            """Ours and the reference, turn about first."""
            exam = exam_of(seed)
            fitting = LightExaminer(exam, book)
            keeping = LightExaminer(exam, book, KeptModels(folder / f"models-{seed}").fit)
            # Compiled before either side is timed.
            fitting.score(SPACE.candidate(SPACE.defaults), fitting.nothing(), 1, searched={})
            ways: dict[str, Way] = {}
            for side in ("ours", "plain") if seed % 2 else ("plain", "ours"):
                if side == "ours":
                    ways[side] = ours(keeping, SPACE, n_ours, seed, folder)
                else:
                    ways[side] = plain(fitting, SPACE, n_trials, seed)
            return ways["ours"], ways["plain"]

        seeds: tuple[list[int], list[int]] = ([], [])

        def time_of(side: int) -> Mapping[str, float]:
            seeds[side].append(len(seeds[side]) + FIRST_SEED)
            both = pair(seeds[side][-1])
            area = min(way.area() for way in both)
            way = both[side]
            reached = way.trials_to(area) - 1
            told = {
                "to_hypervolume_s": way.at_s[reached],
                "to_hypervolume_cpu_s": way.cpu_s[reached],
                "first_trial_s": way.at_s[0],
                "all_trials_s": way.at_s[-1],
                "all_trials_cpu_s": way.cpu_s[-1],
                "hypervolume": way.area(),
                "complete_trials": float(len(way.scores)),
                "fits": float(way.n_fits),
            }
            said = f"{('ours', 'plain')[side]} {seeds[side][-1]}: {json.dumps(told)} {os.getloadavg()}"
            sys.stderr.write(f"{said}\n")
            return told

        result = compare(
            "search",
            lambda: time_of(0),
            lambda: time_of(1),
            what=f"sequential Optuna without pruning, {n_trials} trials of {N_FOLDS} folds",
            goal={"to_hypervolume_s": ("<=", 0.5), "hypervolume": (">=", 0.98)},
            repeats=QUICK_REPEATS if wanted.quick else REPEATS,
            packages=("ray", "optuna", "lightgbm"),
            notes={"bars": N_BARS, "trials": n_ours, "worst": WORST.to_json(), **LIGHTER},
        )
        ray.shutdown()
    report(result, as_json=wanted.json)


if __name__ == "__main__":
    main()
