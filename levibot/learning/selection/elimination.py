"""Recursive elimination: the weakest features go, step by step, while what is left predicts as well."""

from __future__ import annotations

import numpy as np

from levibot.learning.models.lightgbm import LightGBMModel, LightGBMParameters
from levibot.learning.models.sequence import IndexArray, rows_as_samples
from levibot.learning.selection.rows import FoldRows, lesson
from levibot.market.bars import BoolArray

# Of those that are left, this share goes in a step.
STEP = 0.4
FEWEST = 3
# A loss within this share of the best one is as good: fewer features are kept then.
TOLERANCE = 1e-3


def surviving(rows: FoldRows, booster: LightGBMParameters, seed: int) -> BoolArray:
    """(F,) the features of the smallest set that predicts the judging rows as well as the best set does.

    Each step fits the booster to the teaching rows, measures its squared error on the judging ones, and drops
    the features of least gain. None survives where no set is better than the labels' mean.
    Deterministic by seed.
    """
    n_features = rows.features.shape[1]
    left = np.arange(n_features)
    steps: list[tuple[float, IndexArray]] = []
    while True:
        model = LightGBMModel.fit(lesson(rows.features[:, left], rows.labels), parameters=booster, seed=seed)
        error = rows.judge_labels - model.predict(rows_as_samples(rows.judge_features[:, left]))[:, 0]
        steps.append((float(np.mean(error**2)), left))
        n_kept = int(len(left) * (1.0 - STEP))
        if n_kept < FEWEST:
            break
        gain = np.asarray(model.booster.feature_importance("gain"))
        # Stable: of equals the earlier one stays.
        left = np.sort(left[np.argsort(-gain, kind="stable")[:n_kept]])
    survives = np.zeros(n_features, dtype=np.bool_)
    best = min(loss for loss, _ in steps)
    if best < float(np.mean(rows.judge_labels**2)):
        survives[next(kept for loss, kept in reversed(steps) if loss <= best * (1.0 + TOLERANCE))] = True
    return survives
