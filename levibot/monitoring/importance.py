"""Which features a model listens to, and whether that changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from levibot.errors import DataError
from levibot.learning.models.lightgbm import LightGBMModel
from levibot.learning.models.linear import LinearModel
from levibot.learning.models.xgboost import XGBoostModel
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray


@dataclass(frozen=True, slots=True)
class RankChange:
    """How the order of importance differs between two measurements of the same features.

    correlation: Spearman's, 1 where the order is the same; NaN where all are equally important. moved: each
    feature's rank before and after, 1 is the most important; the farthest first.
    """

    correlation: float
    moved: Mapping[str, tuple[int, int]]


def importance_of(model: SignalModel, features: FloatArray) -> dict[str, float]:
    """Share of each feature in what moves the predictions: mean |SHAP value|, all shares add up to 1.

    features: (N, F) in the order of `model.feature_names`, NaN allowed. Exact SHAP values: of trees (Lundberg
    et al. 2020) as LightGBM and XGBoost compute them, of linear members in closed form; over the horizons in
    units of their usual size, and every kind counts the same. An LSTM is not asked: it reads sequences, not a
    row. All 0 where none listens to anything. Raises DataError without rows or on another shape.
    """
    n_features = len(model.feature_names)
    if features.ndim != 2 or features.shape[1] != n_features or not len(features):
        raise DataError(
            f"Importance is measured on rows of {n_features} features, not on the shape {features.shape}."
        )
    by_kind: dict[str, FloatArray] = {}
    for member in model.learned:
        for regressor in member.models:
            if isinstance(regressor, LightGBMModel | XGBoostModel | LinearModel):
                size = regressor.mean_abs_shap(features) / member.horizons[0].usual_size
                by_kind[member.kind] = by_kind.get(member.kind, np.zeros(n_features)) + size
    total = np.zeros(n_features)
    for of_kind in by_kind.values():
        whole = of_kind.sum()
        total += of_kind / whole if whole > 0.0 else of_kind
    whole = total.sum()
    shares = total / whole if whole > 0.0 else total
    return dict(zip(model.feature_names, shares.tolist(), strict=True))


def rank_change(before: Mapping[str, float], after: Mapping[str, float]) -> RankChange:
    """The change between two importances. Raises DataError when they are of other features."""
    if before.keys() != after.keys():
        raise DataError(
            f"The importances are of other features: {len(before)} before, {len(after)} after, "
            f"{len(before.keys() & after.keys())} in both."
        )
    names = sorted(before)
    ranks = [_ranks(importance, names) for importance in (before, after)]
    values = [[importance[name] for name in names] for importance in (before, after)]
    is_flat = any(len(set(row)) < 2 for row in values)
    correlation = float("nan") if is_flat else float(spearmanr(*values).statistic)
    moved = {name: (ranks[0][name], ranks[1][name]) for name in names}
    farthest = sorted(moved, key=lambda name: -abs(moved[name][0] - moved[name][1]))
    return RankChange(correlation, {name: moved[name] for name in farthest})


def _ranks(importance: Mapping[str, float], names: list[str]) -> dict[str, int]:
    ordered = sorted(names, key=lambda name: -importance[name])
    return {name: rank for rank, name in enumerate(ordered, 1)}
