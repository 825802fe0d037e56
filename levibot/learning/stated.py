"""The probabilities of a walk-forward, held against what the market did.

Beside what the members and the ensemble state stands what a meta-learner makes of the members' opinions:
logistic regression on opinions of stretches that were over by then, each by models that had not seen them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from levibot.learning.calibration import Reliability, reliability
from levibot.learning.labels import reach_ends
from levibot.learning.members import RULES, Opinions
from levibot.learning.stacking import MIN_ROWS, Stacking, fit_stacking
from levibot.learning.walk_forward import EMBARGO_BARS, Split, purged_folds, usable_rows
from levibot.learning.walk_forward_opinions import rows_of
from levibot.market.bars import BoolArray, FloatArray, Panel

# Of neighbouring rows, whose outcomes overlap, one in so many teaches the meta-learner.
EVERY_BARS = 4
_FOLDS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Stated:
    """by_name: reliability of each learned member, of the `ensemble` (their mean, which is what is served),
    and of the `stacked` one; all over the same rows, those for which each of them states something. Empty
    where there are none. stackings: by the number of the stretch that each was fitted for.
    """

    by_name: Mapping[str, Reliability]
    stackings: Mapping[int, Stacking]

    def to_json(self) -> dict[str, Any]:
        return {
            "probability_up": {name: of.to_json() for name, of in self.by_name.items()},
            "stacking": {str(number): of.to_json() for number, of in self.stackings.items()},
        }


def stated(opinions: Opinions, panel: Panel, splits: Sequence[Split], horizon_bars: int) -> Stated:
    """opinions: of the panel's rows, NaN outside the stretches. horizon_bars: what the probabilities are of.

    A meta-learner of a stretch is taught by outcomes that were known when the stretch began, less the
    embargo. The first stretch has none, and nor has one before 200 outcomes are known.
    """
    learned = [column for column, member in enumerate(opinions.members) if member not in RULES]
    moved = np.full(panel.open.shape, np.nan)
    if len(panel) > horizon_bars + 1:
        moved[: -horizon_bars - 1] = np.log(panel.open[horizon_bars + 1 :] / panel.open[1:-horizon_bars])
    series: dict[str, FloatArray] = {
        opinions.members[column]: opinions.probability_up[..., column] for column in learned
    }
    series["ensemble"] = opinions.probability_up[..., learned].mean(axis=2)
    probability, stackings = _stacked(opinions, panel, splits, moved, horizon_bars)
    if stackings:
        series["stacked"] = probability
    judged = np.isfinite(moved) & np.all([np.isfinite(values) for values in series.values()], axis=0)
    if not judged.any():
        return Stated({}, stackings)
    happened = moved[judged] > 0.0
    return Stated({name: reliability(values[judged], happened) for name, values in series.items()}, stackings)


def _stacked(
    opinions: Opinions, panel: Panel, splits: Sequence[Split], moved: FloatArray, horizon_bars: int
) -> tuple[FloatArray, dict[int, Stacking]]:
    """(T, S) probabilities, NaN without a meta-learner; and the meta-learners."""
    probability, stackings = np.full(moved.shape, np.nan), {}
    available_at = reach_ends(panel.closes_at, horizon_bars)
    embargo = EMBARGO_BARS * panel.interval
    bar = panel.ts.astype("datetime64[us]").astype(np.int64) // (panel.interval // timedelta(microseconds=1))
    has_said = np.isfinite(opinions.values).any(axis=2) & np.isfinite(moved)
    taught = has_said.any(axis=1) & (bar % EVERY_BARS == 0)
    for number, split in enumerate(splits):
        usable = taught & usable_rows(
            panel.ts, available_at, start=splits[0].test_start, fit_at=split.fit_at, embargo=embargo
        )
        points = has_said & usable[:, None]
        if points.sum() < MIN_ROWS:
            continue
        rows, _ = np.nonzero(points)
        cut = purged_folds(panel.ts, available_at, usable, n_folds=_FOLDS, embargo=embargo)
        folds: list[tuple[BoolArray, BoolArray]] = [(teach[rows], judge[rows]) for teach, judge in cut]
        stacking = fit_stacking(
            opinions.members,
            opinions.values[points],
            moved[points] > 0.0,
            folds=[(teach, judge) for teach, judge in folds if teach.any() and judge.any()],
        )
        stackings[number] = stacking
        of = rows_of(panel, split)
        probability[of.start : of.stop] = stacking.probability(opinions.values[of.start : of.stop])
    return probability, stackings
