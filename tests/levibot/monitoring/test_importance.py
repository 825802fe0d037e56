"""Importance and its change, and features that say the same."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.linear import LinearModel, LinearParameters
from levibot.learning.models.sequence import rows_as_samples
from levibot.learning.models.xgboost import XGBoostModel, XGBoostParameters
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray
from levibot.monitoring.correlation import collinearity
from levibot.monitoring.importance import importance_of, rank_change

NAMES = ("a", "b", "c", "d")


def test_importances_are_shares_of_what_moves_the_predictions(
    model: SignalModel, still_features: FloatArray
) -> None:
    rows = still_features[-200:].reshape(-1, len(CORE.names))
    importance = importance_of(model, rows)
    assert tuple(importance) == CORE.names
    assert sum(importance.values()) == pytest.approx(1.0)
    used = {name for part in model.learned for m in part.models for name in used_by(m.booster)}
    assert {name for name, share in importance.items() if share > 0.0} <= used
    # SHAP values add up to the prediction: what no tree splits on has none.
    regressor = model.learned[0].models[0]
    contributions = np.asarray(regressor.booster.predict(rows, pred_contrib=True))
    np.testing.assert_allclose(
        contributions.sum(axis=1), regressor.predict(rows_as_samples(rows))[:, 0], atol=1e-9
    )


def used_by(booster: object) -> set[str]:
    counts = booster.feature_importance("split")  # type: ignore[attr-defined]
    return {name for name, n in zip(CORE.names, counts, strict=True) if n}


def lesson(seed: int = 3) -> Lesson:
    """Labels that listen to the first feature twice as much as to the second, and not to the third."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(4_000, 3))
    label = 0.5 * features[:, 0] + 0.25 * features[:, 1] + rng.normal(0.0, 0.1, 4_000)
    return Lesson(rows_as_samples(features), label[:, None], 0)


@pytest.mark.parametrize("kind", ["xgboost", "linear"])
def test_other_kinds_are_asked_too(kind: str) -> None:
    taught = lesson()
    rows = taught.samples.newest()
    regressor: XGBoostModel | LinearModel
    if kind == "xgboost":
        parameters = XGBoostParameters(learning_rate=0.3, column_share=1.0, l2=1.0)
        regressor = XGBoostModel.fit(taught, parameters=parameters, seed=1)
    else:
        regressor = LinearModel.fit(taught, parameters=LinearParameters(l2=0.0), seed=1)
        # Shapley values by their definition: features that do not hang together, one put to its mean.
        moved = np.empty_like(rows)
        for column in range(3):
            without = rows.copy()
            without[:, column] = np.nan
            moved[:, column] = (
                regressor.predict(taught.samples) - regressor.predict(rows_as_samples(without))
            )[:, 0]
        np.testing.assert_allclose(
            regressor.mean_abs_shap(rows), np.abs(moved - moved.mean(axis=0)).mean(axis=0), rtol=1e-9
        )
    size = regressor.mean_abs_shap(rows)
    assert size[0] / size[1] == pytest.approx(2.0, rel=0.15)
    assert size[2] < 0.05 * size[0]


def test_importance_without_rows_is_refused(model: SignalModel) -> None:
    with pytest.raises(DataError, match="not on the shape"):
        importance_of(model, np.empty((0, len(CORE.names))))


def test_a_change_of_ranks_is_measured_and_told() -> None:
    before = dict(zip(NAMES, (0.4, 0.3, 0.2, 0.1), strict=True))
    same = rank_change(before, before)
    assert (same.correlation, set(same.moved.values())) == (1.0, {(1, 1), (2, 2), (3, 3), (4, 4)})
    turned = rank_change(before, dict(zip(NAMES, (0.1, 0.2, 0.3, 0.4), strict=True)))
    assert turned.correlation == -1.0
    assert next(iter(turned.moved.items())) in {("a", (1, 4)), ("d", (4, 1))}
    assert np.isnan(rank_change(dict.fromkeys(NAMES, 0.25), before).correlation)
    with pytest.raises(DataError, match="4 before, 3 after, 3 in both"):
        rank_change(before, dict.fromkeys(NAMES[:3], 0.1))


def test_features_that_say_the_same_are_one_cluster() -> None:
    rng = np.random.default_rng(2)
    a, b, noise = rng.normal(size=(3, 5000))
    rows = np.column_stack([a, a + 0.1 * b + 0.1 * noise, b, np.full(5000, 3.0)])
    rows[:7, 1] = np.nan
    found = collinearity(rows, NAMES)
    assert found.clusters == (("a", "b"),)
    assert found.matrix[0, 1] == pytest.approx(np.corrcoef(rows[7:, 0], rows[7:, 1])[0, 1])
    assert np.isnan(found.matrix[3]).all()
    assert np.isnan(found.inflation[3])
    # 1 / (1 - R²) of the regression on the others, by least squares.
    for column in range(3):
        others = np.column_stack([np.ones(4993), np.delete(rows[7:, :3], column, axis=1)])
        rest = rows[7:, column] - others @ np.linalg.lstsq(others, rows[7:, column], rcond=None)[0]
        assert found.inflation[column] == pytest.approx(rows[7:, column].var() / rest.var(), rel=1e-6)


def test_what_the_others_hold_entirely_is_inflated_without_bound() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 500))
    found = collinearity(np.column_stack([a, b, a - b]), NAMES[:3])
    assert np.isinf(found.inflation).all()


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="5 rows have all of the 4 features; 6 are needed"):
        collinearity(np.ones((5, 4)), NAMES)
