"""What a search leaves behind: the front as JSON and as a plot, and the parameters that are chosen of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from levibot.errors import DataError
from levibot.learning.search.parameters_file import FoundParameters
from levibot.learning.search.pareto import Score, front
from levibot.stores.segments import write_whole
from tune.study import Study
from tune.suggestions import StudyTrial

PARAMETERS, FRONT, PLOT = "parameters.json", "front.json", "front.svg"


@dataclass(frozen=True, slots=True)
class Found:
    """judged: the trials that were judged on all folds; only they can be compared. front: those of them that
    no other is better than, best Sharpe ratio first. chosen: the one whose parameters are kept.
    """

    judged: tuple[StudyTrial, ...]
    front: tuple[StudyTrial, ...]
    chosen: StudyTrial


def find(study: Study, deepest_drawdown: float) -> Found:
    """The front of a study, and of it the best Sharpe ratio whose drawdown is not deeper than this.

    deepest_drawdown: a fraction, 0.15 for 15 %. Where all are deeper, the least deep one is chosen.
    Raises DataError where no trial was judged on all folds.
    """
    n_folds = study.ladder.n_folds
    judged = tuple(t for t in study.trials() if t.state == "complete" and t.rungs[n_folds].is_defined)
    if not judged:
        raise DataError(
            f"No trial of the study {study.name} came to all {n_folds} folds.",
            hint="See its trials with `make optuna-dashboard`, and the log of the job.",
        )
    scores = [trial.rungs[n_folds] for trial in judged]
    best = tuple(judged[k] for k in front(scores))
    allowed = [t for t in best if t.rungs[n_folds].max_drawdown >= -deepest_drawdown]
    return Found(judged, best, allowed[0] if allowed else best[-1])


def write(study: Study, found: Found, folder: Path) -> None:
    """Write the three files into the folder, each whole or not at all."""
    plan, n_folds = study.plan, study.ladder.n_folds
    chosen = FoundParameters(
        study.space.candidate(found.chosen.values),
        study.name,
        found.chosen.number,
        found.chosen.rungs[n_folds],
        {name: plan[name] for name in plan if name not in ("space", "rungs", "keep_share", "fewest")},
    )
    chosen.write(folder / PARAMETERS)
    record = {
        "study": study.name,
        "plan": plan,
        "trials": study.counts(),
        "chosen": found.chosen.number,
        "front": [
            {"trial": t.number, **t.rungs[n_folds].to_json(), "values": dict(t.values)} for t in found.front
        ],
    }
    write_whole(folder / FRONT, (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
    write_whole(folder / PLOT, _plot(study.name, found, n_folds))


def _plot(name: str, found: Found, n_folds: int) -> bytes:
    """An SVG: every trial that was judged on all folds, the front as a line, the chosen one marked."""
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    axes = figure.add_subplot()

    def draw(trials: Sequence[StudyTrial], marks: str, label: str) -> None:
        scores: list[Score] = [trial.rungs[n_folds] for trial in trials]
        depths = [-100.0 * score.max_drawdown for score in scores]
        axes.plot(depths, [score.net_sharpe for score in scores], marks, label=label)

    draw(found.judged, "o", f"judged on all {n_folds} folds")
    draw(found.front, "s-", "the Pareto front")
    draw([found.chosen], "k*", f"chosen: trial {found.chosen.number}")
    axes.set(xlabel="maximum drawdown, %", ylabel="net Sharpe ratio, annualised", title=name)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue()
