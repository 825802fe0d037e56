"""Runs the trials of a study on Ray Tune, from wherever the last session left it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import structlog
from ray import tune as ray_tune

from levibot.errors import NotReady
from tune.pareto_pruning import ParetoPruning
from tune.rung_trial import Examiner, RungTrial
from tune.study import Study
from tune.study_searcher import StudySearcher

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Running:
    """How the trials are run. cpus: of one trial, for Ray's book-keeping: half a core each, so that two fit
    beside the replicas on a machine of two. level: of the logs.
    """

    at_once: int = 2
    cpus: float = 0.5
    seed: int = 0
    level: str = "INFO"


def run_trials(study: Study, examiner: Examiner, folder: Path, running: Running) -> None:
    """Judge the trials that the study still lacks. Tune's experiments are put into the folder.

    What another session left behind goes on: from its last rung where Tune's snapshot knows the trial, else
    from its beginning. Raises NotReady when it ends before the study is full.
    """
    # It warns of each snapshot that a checkpoint forces: they are what a kill loses nothing by.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.ERROR)
    sent = ray_tune.with_parameters(
        RungTrial, examiner=examiner, space=study.space, ladder=study.ladder, level=running.level
    )
    trainable = ray_tune.with_resources(sent, {"cpu": running.cpus})
    experiments = sorted(folder.glob("experiment-*"))
    if experiments and study.counts()["running"] and ray_tune.Tuner.can_restore(str(experiments[-1])):
        log.info("the search goes on", **study.counts())
        ray_tune.Tuner.restore(str(experiments[-1]), trainable).fit()
    # A session that was killed before Tune's first snapshot, or whose trials were all over, leaves this.
    if study.counts()["left"]:
        ray_tune.Tuner(
            trainable,
            tune_config=ray_tune.TuneConfig(
                scheduler=ParetoPruning(study),
                search_alg=StudySearcher(study, running.at_once, running.seed),
                # As many as the study asks for: it says when it is full.
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config['number']:05d}-{trial.trial_id}",
            ),
            run_config=ray_tune.RunConfig(
                name=f"experiment-{len(experiments):03d}",
                storage_path=str(folder),
                checkpoint_config=ray_tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1),
                failure_config=ray_tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        ).fit()
    if left := study.counts()["left"]:
        raise NotReady(
            f"The search {study.name} ended with {left} trials left.", hint="Go on with `--resume`."
        )
