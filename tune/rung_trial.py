"""One trial of a search as Ray Tune runs it: a process that judges a candidate rung by rung."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ray import tune as ray_tune

from levibot.learning.evidence.book import TrialBook
from levibot.learning.search.kept_models import KeptModels
from levibot.learning.search.pareto import Score
from levibot.learning.search.rungs import Ladder
from levibot.learning.search.space import Candidate, Space
from levibot.telemetry.logging import configure_logging
from levibot.trading.rung_score import Exam, Judged, score_rung

_STATE, _TARGETS = "judged.json", "targets.npy"


class Examiner(Protocol):
    """Scores candidates rung by rung. It goes to the workers once, through the object store."""

    def nothing(self) -> Judged:
        """What a candidate begins with."""
        ...

    def score(
        self, candidate: Candidate, judged: Judged, n_folds: int, *, searched: dict[str, Any]
    ) -> tuple[Judged, Score]:
        """See `levibot.trading.rung_score.score_rung`."""
        ...


class MarketExaminer:
    """The market's own judgement, with the ledger that counts it and the models that were fitted for it."""

    def __init__(self, exam: Exam, book: TrialBook, models: KeptModels) -> None:
        self._exam = exam
        self._book = book
        self._models = models

    def nothing(self) -> Judged:
        return Judged.nothing(self._exam)

    def score(
        self, candidate: Candidate, judged: Judged, n_folds: int, *, searched: dict[str, Any]
    ) -> tuple[Judged, Score]:
        return score_rung(
            self._exam,
            candidate,
            judged,
            n_folds,
            trials=self._book,
            searched=searched,
            fit=self._models.fit,
        )


class RungTrial(ray_tune.Trainable):  # type: ignore[misc]
    """Each step is a rung; where the models are there already, the only step is all folds.

    A checkpoint holds the targets of the folds that are done, as plain data.
    """

    _judged: Judged

    def setup(
        self, config: dict[str, Any], *, examiner: Examiner, space: Space, ladder: Ladder, level: str
    ) -> None:
        configure_logging(level, "search")
        # A line a checkpoint hides those that say how the search goes.
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        logging.getLogger("ray.tune").setLevel(logging.WARNING)
        self._examiner = examiner
        self._space = space
        self._ladder = ladder
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The process goes on with another candidate: it has the data already."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        shares_fit = self.config["shares_fit"]
        n_folds = self._ladder.n_folds if shares_fit else self._ladder.after(self._judged.n_folds)
        self._judged, score = self._examiner.score(
            self._candidate, self._judged, n_folds, searched=self.config["values"]
        )
        # Not `done` on all folds: Tune would stop the trial without asking the scheduler, and so the study.
        return {"n_folds": n_folds, **asdict(score)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        folder = Path(checkpoint_dir)
        np.save(folder / _TARGETS, self._judged.targets, allow_pickle=False)
        (folder / _STATE).write_text(json.dumps({"n_folds": self._judged.n_folds}))

    def load_checkpoint(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            folder = Path(checkpoint_dir)
            n_folds = int(json.loads((folder / _STATE).read_text())["n_folds"])
            self._judged = Judged(n_folds, np.load(folder / _TARGETS, allow_pickle=False))

    def _begin(self, config: dict[str, Any]) -> None:
        self._candidate = self._space.candidate(config["values"])
        self._judged = self._examiner.nothing()
