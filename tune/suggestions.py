"""What a search tries next: values from a model of how far the trials came that are over."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from levibot.learning.search.pareto import Score
from levibot.learning.search.rungs import places
from levibot.learning.search.space import Dimension, Space, Value

# Trials that are drawn at random before a model of the space is worth more.
N_RANDOM = 10


@dataclass(frozen=True, slots=True)
class StudyTrial:
    """values: by dimension. rungs: the score at each number of folds, as far as it came. state: `complete` on
    all folds, `pruned` before, `failed` without a score, `running`.
    """

    number: int
    state: str
    values: Mapping[str, Value]
    rungs: Mapping[int, Score]


def suggest(
    space: Space, trials: Sequence[StudyTrial], seed: int, fixed: Mapping[str, Value]
) -> dict[str, Value]:
    """Values from a model of the places of all trials that are over, see `places`. fixed: some, by name.

    Optuna's sampler cannot be given the study itself: with two objectives it fails on pruned trials. Nor can
    it be given the scores of one rung: on a high one only good trials have been, and what they have in common
    looks to it like a mark of the bad ones among them.
    """
    over = [trial for trial in trials if trial.state in ("complete", "pruned")]
    dimensions = distributions(space)
    with no_warning_of_experiments():
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=N_RANDOM, multivariate=True, constant_liar=True
        )
        if fixed:
            sampler = optuna.samplers.PartialFixedSampler(dict(fixed), sampler)
    seen = optuna.create_study(direction="minimize", sampler=sampler)
    for trial, place in zip(over, places([trial.rungs for trial in over]), strict=True):
        seen.add_trial(
            optuna.trial.create_trial(params=dict(trial.values), distributions=dimensions, value=float(place))
        )
    for trial in trials:
        if trial.state == "running":
            seen.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING, params=dict(trial.values), distributions=dimensions
                )
            )
    return dict(seen.ask(dimensions).params)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna names it."""
    return {dimension.name: _distribution(dimension) for dimension in space.dimensions}


@contextmanager
def no_warning_of_experiments() -> Iterator[None]:
    """Optuna is pinned: what may change in another version is seen when it is changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.is_whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)
