"""SHAP: which features move the predictions of rows that the model has not seen, more than a shadow does."""

from __future__ import annotations

import numpy as np

from levibot.learning.models.lightgbm import LightGBMModel, LightGBMParameters
from levibot.learning.selection.rows import FoldRows, lesson, shifted
from levibot.market.bars import BoolArray, FloatArray


def contributing(rows: FoldRows, booster: LightGBMParameters, seed: int) -> tuple[FloatArray, BoolArray]:
    """(F,) mean absolute SHAP value on the judging rows, in units of the label, and (F,) who counts.

    The booster is fitted to the features and as many shadows (see `shifted`); who counts contributes more
    than every shadow. Deterministic by seed.
    """
    n_features = rows.features.shape[1]
    rng = np.random.default_rng(seed)
    teach = np.hstack([rows.features, shifted(rows.features, rng)])
    judge = np.hstack([rows.judge_features, shifted(rows.judge_features, rng)])
    model = LightGBMModel.fit(lesson(teach, rows.labels), parameters=booster, seed=seed)
    size = model.mean_abs_shap(judge)
    own, shadow = size[:n_features], size[n_features:]
    return own, own > shadow.max()
