"""What features are selected on: pooled rows of one training window with the labels of one horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

import numpy as np

from levibot.errors import DataError
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.sequence import rows_as_samples
from levibot.learning.past import Knowledge
from levibot.learning.walk_forward import EMBARGO_BARS, purged_folds, usable_rows
from levibot.market.bars import BoolArray, FloatArray

# Fewer rows in a fold than this elect nothing but noise.
MIN_ROWS = 400


@dataclass(frozen=True, slots=True, eq=False)
class FoldRows:
    """One fold of one horizon: rows that teach and rows that judge, oldest first, symbols pooled.

    features: (N, F) and (M, F), NaN where missing. labels: (N,) and (M,), finite, less the mean of
    those that teach.
    """

    horizon_bars: int
    fold: int
    features: FloatArray
    labels: FloatArray
    judge_features: FloatArray
    judge_labels: FloatArray


def fold_rows(
    known: Knowledge,
    train_start: datetime,
    horizons_bars: Sequence[int],
    *,
    n_folds: int,
    every_bars: int,
    max_rows: int,
    n_judged: int = 1,
    only: int | None = None,
) -> list[FoldRows]:
    """The folds of every horizon, of what may teach a model made at `known.as_of`.

    Labels that reach beyond `known.as_of` less the embargo are left out, and the reach of a label that
    teaches keeps the embargo from those that judge. Of neighbouring rows one in `every_bars` is taken, by the
    clock, or fewer where that would be more than `max_rows` of a horizon. n_judged: see `purged_folds`.
    only: the number of the one fold that is wanted.
    Raises DataError where a fold has too few rows.
    """
    panel = known.panel
    embargo = EMBARGO_BARS * panel.interval
    folds = []
    for horizon_bars in horizons_bars:
        labels = known.labels_of(horizon_bars)
        usable = usable_rows(
            panel.ts, labels.available_at, start=train_start, fit_at=known.as_of, embargo=embargo
        )
        has_signal = np.isfinite(known.features).any(axis=2) & np.isfinite(labels.values)
        # Without the rows that only warmed up: the first fold would be made of them.
        usable &= has_signal.any(axis=1)
        n_pooled = int(usable.sum()) * len(panel.symbols)
        stride = max(every_bars, ceil(n_pooled / max_rows))
        bar = panel.ts.astype("datetime64[us]").astype(np.int64) // (
            panel.interval // timedelta(microseconds=1)
        )
        taught = usable & (bar % stride == 0)
        cut = purged_folds(
            panel.ts, labels.available_at, taught, n_folds=n_folds, embargo=embargo, n_judged=n_judged
        )
        for fold, (teach, judge) in enumerate(cut):
            if only is not None and fold != only:
                continue
            teaching, judging = (has_signal & rows[:, None] for rows in (teach, judge))
            fewest = min(int(teaching.sum()), n_folds * int(judging.sum()))
            if fewest < MIN_ROWS:
                raise DataError(
                    f"A selection from {train_start:%Y-%m-%d} to {known.as_of:%Y-%m-%d} has {fewest} rows; "
                    f"{MIN_ROWS} are needed in each of {n_folds} folds."
                )
            mean = float(labels.values[teaching].mean())
            folds.append(
                FoldRows(
                    horizon_bars,
                    fold,
                    known.features[teaching],
                    labels.values[teaching] - mean,
                    known.features[judging],
                    labels.values[judging] - mean,
                )
            )
    return folds


def lesson(features: FloatArray, labels: FloatArray) -> Lesson:
    """Pooled rows (N, F) and their label (N,) as what a booster is fitted on."""
    return Lesson(rows_as_samples(features), labels[:, None], 0)


def shifted(features: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Shadows (N, F): each column turned around by a length of its own, at least a tenth of the rows.

    A shadow is as slow, as heavy-tailed and as often missing as its feature, and knows nothing of the label.
    A permutation would be faster than any feature that wanders, and so too easy to beat.
    """
    n = len(features)
    out = np.empty_like(features)
    for column in range(features.shape[1]):
        out[:, column] = np.roll(features[:, column], int(rng.integers(n // 10, n - n // 10)))
    return out


def chosen(names: Sequence[str], mask: BoolArray) -> tuple[str, ...]:
    """The names that a mask (F,) is true for."""
    return tuple(name for name, is_chosen in zip(names, mask, strict=True) if is_chosen)
