"""Stops trials of two objectives by rung: the scheduler that Ray Tune has not.

Tune's own schedulers know one metric. This one asks the study, which has every rung of every trial on the
disk: so it has no state to lose, and is the same after `Tuner.restore` as it was before the kill.
"""

from __future__ import annotations

from typing import Any

import structlog
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.schedulers.trial_scheduler import FIFOScheduler

from levibot.learning.search.pareto import Score
from tune.study import Study

log = structlog.get_logger()


class ParetoPruning(FIFOScheduler):  # type: ignore[misc]
    """Trials run in the order in which they came; each rung's score decides whether they go on."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ARG002
        """A trial of a snapshot is this session's, unless it ended after the snapshot was made."""
        if trial.status == Trial.PENDING:
            self._study.claim(trial.config["number"])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ARG002
        """Only a trial that Tune begins once more is in error already when this is called."""
        if trial.status != Trial.ERROR:
            self._study.fail(trial.config["number"], "its process failed; the log of the job says how")

    def on_trial_result(
        self,
        tune_controller: Any,  # noqa: ARG002
        trial: Trial,
        result: dict[str, Any],
    ) -> str:
        """Stop or go on. The decision is in the study before Tune hears of it."""
        number, n_folds = trial.config["number"], result["n_folds"]
        score = Score(result["net_sharpe"], result["max_drawdown"])
        goes_on = self._study.report(number, n_folds, score)
        counts = self._study.counts()
        log.info(
            "trial",
            number=number,
            folds=n_folds,
            net_sharpe=round(score.net_sharpe, 3),
            max_drawdown=round(score.max_drawdown, 4),
            goes_on=goes_on,
            **counts,
        )
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that waits. One that was over when the last session died is ended, not judged again."""
        for trial in tune_controller.get_trials():
            if trial.status == Trial.PENDING and self._study.is_over(trial.config["number"]):
                tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return f"Pruning by non-dominated rank at {self._study.ladder.budgets} folds."
