"""The one truth about a search: an Optuna study in a file, from which everything goes on after a kill.

Ray Tune's own snapshots are seconds old when a driver dies, and know nothing of rungs. Here every fact is on
the disk before anybody acts on it: a trial before it is handed out, its score before it is compared, the
decision before the trial is stopped. `optuna-dashboard` reads the same file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from levibot.errors import DataError, StoreError, UsageError
from levibot.learning.search.pareto import Score
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import Space, Value
from tune.suggestions import StudyTrial, distributions, no_warning_of_experiments, suggest

# Candidates that are judged with the models of one that came to all folds, itself among them.
N_SHARING = 12
_DIRECTIONS: tuple[Literal["maximize"], ...] = ("maximize", "maximize")
_PLAN, _TARGET, _SHARING = "plan", "n_trials", "n_sharing"
_SESSION, _RUNGS, _WHY = "session", "rungs", "why"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Handed(NamedTuple):
    """A trial to judge. shares_fit: another one has been judged on all folds with the models it takes."""

    number: int
    values: Mapping[str, Value]
    shares_fit: bool


@dataclass(frozen=True)
class Study:
    """The file of one study. It goes to other processes as a path, and is opened where it is used.

    Every write is one transaction, so a kill leaves no half of it.
    """

    path: Path
    name: str
    _opened: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.name)

    def make(
        self,
        plan: Mapping[str, Any],
        space: Space,
        ladder: Ladder,
        n_trials: int,
        n_sharing: int = N_SHARING,
    ) -> None:
        """Make the study, or go on with it for `n_trials` in all, counting those that are there.

        plan: what its scores are of. n_sharing: candidates that one training is for, see `next`.
        Raises UsageError where it is there with another plan, space or ladder.
        """
        asked = {
            **plan,
            "space": space.to_json(),
            "rungs": list(ladder.budgets),
            "keep_share": ladder.keep_share,
            "fewest": ladder.fewest,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            study_name=self.name, storage=self._storage, directions=_DIRECTIONS, load_if_exists=True
        )
        there = study.user_attrs.get(_PLAN)
        if there is not None and there != asked:
            changed = [name for name in sorted({*there, *asked}) if there.get(name) != asked.get(name)]
            raise UsageError(
                f"The study {self.name} is of another {', '.join(changed)}: its scores cannot be compared "
                "with new ones.",
                hint="Search under another name.",
            )
        with no_warning_of_experiments():
            study.set_metric_names(["net_sharpe", "max_drawdown"])
        study.set_user_attr(_PLAN, asked)
        study.set_user_attr(_TARGET, n_trials)
        study.set_user_attr(_SHARING, n_sharing)

    def exists(self) -> bool:
        """Whether it was made already."""
        return self.path.exists() and self.name in optuna.get_all_study_names(self._storage)

    @property
    def plan(self) -> dict[str, Any]:
        return dict(self._study.user_attrs[_PLAN])

    @property
    def space(self) -> Space:
        return Space.from_json(self.plan["space"])

    @property
    def ladder(self) -> Ladder:
        plan = self.plan
        return Ladder(plan["rungs"][-1], plan["keep_share"], plan["fewest"])

    def trials(self) -> list[StudyTrial]:
        """All of them, in the order in which they were begun."""
        return [_read(trial) for trial in self._trials()]

    def counts(self) -> dict[str, int]:
        """How many trials are in each state, and `left` of those that were asked for."""
        states = [trial.state for trial in self.trials()]
        counts = {name: states.count(name) for name in ("complete", "pruned", "failed", "running")}
        counts["left"] = max(0, self._study.user_attrs[_TARGET] - len(states) + counts["running"])
        return counts

    def completed(self) -> list[tuple[float, Score]]:
        """Of the complete trials: seconds since 1970 at which each was, and its score on all folds."""
        n_folds = self.ladder.n_folds
        return [
            (trial.datetime_complete.timestamp(), _read(trial).rungs[n_folds])
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE and trial.datetime_complete is not None
        ]

    # What a session does

    def next(self, at_once: int, seed: int) -> Handed | None:
        """A trial to judge: one that a dead session left behind, or a new one. None while `at_once` run.

        Fitting is what a trial costs. So whoever came to all folds is followed by some that train as it did,
        until `n_sharing` have: the same models, and other values of what is not fitted.
        """
        trials = self._trials()
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        orphans = [trial for trial in running if trial.user_attrs.get(_SESSION) != _session()]
        if len(running) - len(orphans) >= at_once:
            return None
        if orphans:
            self.claim(orphans[0].number)
            return self._handed(orphans[0].number, orphans[0].params)
        space = self.space
        # The first one is what is used without a search, so that all others stand beside it.
        values = space.defaults
        if trials:
            values = suggest(space, self.trials(), seed + len(trials), self._fit_to_share(space))
        space.check(values)
        new = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(values),
            distributions=distributions(space),
            user_attrs={_SESSION: _session()},
        )
        self._study.add_trial(new)
        return self._handed(len(trials), values)

    @property
    def is_full(self) -> bool:
        """Whether there are as many trials as were asked for, and no dead session left one behind."""
        trials = self._trials()
        orphans = any(
            t.state == TrialState.RUNNING and t.user_attrs.get(_SESSION) != _session() for t in trials
        )
        return len(trials) >= self._study.user_attrs[_TARGET] and not orphans

    def claim(self, number: int) -> None:
        """This session judges the trial from now on."""
        self._storage.set_trial_user_attr(self._trial(number)._trial_id, _SESSION, _session())

    def is_over(self, number: int) -> bool:
        """Whether a trial is complete, pruned or failed: nothing is changed of it any more."""
        return self._trial(number).state in _FINISHED

    def report(self, number: int, n_folds: int, score: Score) -> bool:
        """Keep a score and decide: whether the trial goes on to the next rung.

        A trial that is over stays as it is, and does not go on. So the same report twice changes nothing.
        """
        trial = self._trial(number)
        if trial.state in _FINISHED:
            return False
        rungs = {**trial.user_attrs.get(_RUNGS, {}), str(n_folds): score.to_json()}
        self._storage.set_trial_user_attr(trial._trial_id, _RUNGS, rungs)
        # Optuna keeps one number a step; the other objective of a rung is in the attribute.
        self._storage.set_trial_intermediate_value(trial._trial_id, n_folds, score.net_sharpe)
        ladder = self.ladder
        if n_folds == ladder.n_folds:
            if score.is_defined:
                self._study.tell(number, values=[score.net_sharpe, score.max_drawdown])
            else:
                self.fail(number, "the account never moved, so it has no Sharpe ratio")
            return False
        others = [
            one.rungs[n_folds] for one in self.trials() if n_folds in one.rungs and one.number != number
        ]
        if ladder.goes_on(score, others):
            return True
        self._study.tell(number, state=TrialState.PRUNED)
        return False

    def fail(self, number: int, why: str) -> None:
        """The trial has no score."""
        trial = self._trial(number)
        if trial.state not in _FINISHED:
            self._storage.set_trial_user_attr(trial._trial_id, _WHY, why)
            self._study.tell(number, state=TrialState.FAIL)

    def _fit_to_share(self, space: Space) -> dict[str, Value]:
        """How the first training goes whose models are there and too few have shared; empty where none is."""
        trials = self.trials()
        by_fit = Counter(_fit_of(trial.values, space) for trial in trials)
        whole = (_fit_of(trial.values, space) for trial in trials if trial.state == "complete")
        n_sharing = self._study.user_attrs[_SHARING]
        shared = next((fit for fit in whole if by_fit[fit] < n_sharing), ())
        return dict(zip(space.fitted, shared, strict=False))

    def _handed(self, number: int, values: Mapping[str, Value]) -> Handed:
        space = self.space
        own = _fit_of(values, space)
        shares_fit = any(
            trial.state == "complete" and trial.number != number and _fit_of(trial.values, space) == own
            for trial in self.trials()
        )
        return Handed(number, values, shares_fit)

    @cached_property
    def _storage(self) -> optuna.storages.RDBStorage:
        # A line for each study in memory, of which there is one a suggestion.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.storages.RDBStorage(f"sqlite:///{self.path}", skip_compatibility_check=False)
        except (RuntimeError, OSError) as exc:
            raise StoreError(f"The study {self.path} cannot be opened: {exc}.") from exc

    @cached_property
    def _study(self) -> optuna.Study:
        if not self.exists():
            raise DataError(f"There is no study {self.name} in {self.path}.", hint="Search first.")
        return optuna.load_study(study_name=self.name, storage=self._storage)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        return self._trials()[number]


def _read(trial: FrozenTrial) -> StudyTrial:
    state = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }.get(trial.state, "running")
    rungs = {int(n): Score.from_json(said) for n, said in trial.user_attrs.get(_RUNGS, {}).items()}
    return StudyTrial(trial.number, state, trial.params, rungs)


def _fit_of(values: Mapping[str, Value], space: Space) -> tuple[Value, ...]:
    """What trains alike has this alike."""
    return tuple(values[name] for name in space.fitted)


def _session() -> str:
    """This process, and no other that has or had its number."""
    return f"{os.getpid()}-{psutil.Process().create_time():.2f}"
