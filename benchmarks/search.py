"""How long a search takes to the Pareto front of a plain one: `python -m benchmarks.search`.

The reference is Optuna's own loop: one trial after the other, every one judged on all folds, nothing pruned.
Ours is `tune.search` on a Ray cluster of two cores that is up already, with the same space and folds. It
prunes, and begins three times as many trials. The hypervolume that counts is the lower one of the two fronts
in the end, and ours must come close to the other's; each side is timed to the trial that reached it. Both fit
real models on one simulated market, whose edge is planted.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import optuna
import ray

from benchmarks.comparison import QUICK_REPEATS, arguments, compare, report
from levibot.clock import SystemClock
from levibot.features.views import CORE
from levibot.learning.evidence.book import TrialBook
from levibot.learning.past import ComputedPast
from levibot.learning.search.pareto import Score, hypervolume
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import SPACES, Candidate, Space
from levibot.market.bars import Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.costs import Costs
from levibot.trading.rung_score import Exam, Judged, score_rung
from tune.search import Running, run_trials
from tune.study import N_RANDOM, Study, distributions

SYMBOLS = ("BTCUSDT", "ETHUSDT")
HOUR = timedelta(hours=1)
N_FOLDS, REPEATS = 8, 3
# Less than is searched in earnest, so that the benchmark ends within the hour.
N_TRIALS, N_TRIALS_QUICK = 24, 8
# Below every account that is worth a look; what lies under it adds nothing.
WORST = Score(-3.0, -0.6)
SPACE = SPACES["lightgbm"]
# Half of the fits of a search in earnest, so that Ray's overhead weighs more here than in earnest.
LIGHTER = {"training.n_models": 1, "training.n_folds": 2}


class LightExaminer:
    """The market's judgement with fewer fits a fold."""

    def __init__(self, exam: Exam, book: TrialBook) -> None:
        self._exam = exam
        self._book = book

    def nothing(self) -> Judged:
        return Judged.nothing(self._exam)

    def score(
        self, candidate: Candidate, judged: Judged, n_folds: int, *, searched: Mapping[str, float]
    ) -> tuple[Judged, Score]:
        lighter = candidate.with_values(LIGHTER)
        return score_rung(self._exam, lighter, judged, n_folds, trials=self._book, searched=searched)


@dataclass(frozen=True, slots=True)
class Way:
    """A search as it went: after how many seconds each trial was complete, and what it scored."""

    at_s: Sequence[float]
    scores: Sequence[Score]

    def area(self) -> float:
        return hypervolume(self.scores, WORST)

    def seconds_to(self, area: float) -> float:
        """Until the front had this hypervolume. Raises ValueError where it never had."""
        for n, at_s in enumerate(self.at_s, start=1):
            if hypervolume(self.scores[:n], WORST) >= area * (1.0 - 1e-12):
                return at_s
        raise ValueError(f"The front never reached a hypervolume of {area}.")


def plain(examiner: LightExaminer, space: Space, n_trials: int, seed: int) -> Way:
    """Optuna without Ray, one trial after the other, each on all folds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=N_RANDOM, multivariate=True)
    study = optuna.create_study(directions=("maximize", "maximize"), sampler=sampler)
    study.enqueue_trial(space.defaults)
    begun, at_s, scores = time.perf_counter(), [], []
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
        scores.append(score)
    return Way(at_s, scores)


def ours(examiner: LightExaminer, space: Space, n_trials: int, seed: int, folder: Path) -> Way:
    """`tune.search` on the cluster that is up; its workers start within the time."""
    study = Study(folder / "studies.sqlite", f"seed-{seed}")
    study.make({}, space, Ladder(N_FOLDS), n_trials)
    begun = time.time()
    run_trials(study, examiner, folder / f"seed-{seed}", Running(at_once=2, cpus=1.0, seed=seed))
    done = sorted((at - begun, score) for at, score in study.completed())
    return Way([at_s for at_s, _ in done], [score for _, score in done])


def main() -> None:
    wanted = arguments("the time of a search to the Pareto front of a plain one")
    n_trials = N_TRIALS_QUICK if wanted.quick else N_TRIALS
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.05)
    end = MARKET_START + 6_000 * HOUR
    panel = Panel.align({symbol: source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS})
    exam = Exam.of(
        ComputedPast(panel, CORE, (8, 24)),
        view=CORE.name,
        view_version=CORE.version,
        costs=Costs(),
        seed=7,
        n_folds=N_FOLDS,
        judged_share=0.6,
        training=Candidate().with_values(LIGHTER).training,
    )
    # A socket's path is short, so Ray has a folder of its own.
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(prefix="ray-") as ray_folder:
        folder = Path(place)
        book = TrialBook(
            TrialJournal(folder / "trials.sqlite"), "simulated", SystemClock(), kind="search", run_id="bench"
        )
        examiner = LightExaminer(exam, book)
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
            _temp_dir=ray_folder,
        )
        # Compiled before either side is timed.
        examiner.score(SPACE.candidate(SPACE.defaults), examiner.nothing(), 1, searched={})

        @cache
        def pair(seed: int) -> tuple[Way, Way]:
            return ours(examiner, SPACE, 3 * n_trials, seed, folder), plain(examiner, SPACE, n_trials, seed)

        seeds: tuple[list[int], list[int]] = ([], [])

        def time_of(side: int) -> Mapping[str, float]:
            seeds[side].append(len(seeds[side]))
            both = pair(seeds[side][-1])
            area = min(way.area() for way in both)
            way = both[side]
            return {
                "to_hypervolume_s": way.seconds_to(area),
                "all_trials_s": way.at_s[-1],
                "hypervolume": way.area(),
                "complete_trials": float(len(way.scores)),
            }

        result = compare(
            "search",
            lambda: time_of(0),
            lambda: time_of(1),
            what=f"sequential Optuna without pruning, {n_trials} trials of {N_FOLDS} folds",
            goal={"to_hypervolume_s": ("<=", 0.5), "hypervolume": (">=", 0.98)},
            repeats=QUICK_REPEATS if wanted.quick else REPEATS,
            packages=("ray", "optuna", "lightgbm"),
            notes={"seeds": REPEATS, "trials": n_trials, "worst": WORST.to_json(), **LIGHTER},
        )
        ray.shutdown()
    report(result, as_json=wanted.json)


if __name__ == "__main__":
    main()
