from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError, RegistryError
from levibot.learning.models.lightgbm import LightGBMModel, LightGBMParameters
from levibot.learning.models.model import BaseModel
from levibot.market.bars import FloatArray

SMALL = LightGBMParameters(trees=20, learning_rate=0.2, l2=0.0)


def lesson() -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2_000, 4))
    features[::7, 2] = np.nan
    return features, np.sign(features[:, 0]) + 0.1 * rng.normal(size=2_000)


def test_it_is_a_base_model() -> None:
    model: BaseModel = LightGBMModel.fit(*lesson(), parameters=SMALL, seed=0)
    assert model.predict(lesson()[0][:3]).shape == (3,)


def test_it_learns_and_predicts_over_missing_features() -> None:
    features, labels = lesson()
    predicted = LightGBMModel.fit(features, labels, parameters=SMALL, seed=0).predict(features)
    assert np.isfinite(predicted).all()
    assert np.corrcoef(predicted, labels)[0, 1] > 0.9


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, again, other = (
        LightGBMModel.fit(*lesson(), parameters=SMALL, seed=seed).to_bytes() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_bytes_bring_back_the_same_predictions() -> None:
    features, labels = lesson()
    model = LightGBMModel.fit(features, labels, parameters=SMALL, seed=0)
    loaded = LightGBMModel.from_bytes(model.to_bytes())
    assert loaded.predict(features).tolist() == model.predict(features).tolist()
    assert loaded.to_bytes() == model.to_bytes()


def test_no_rows_have_no_predictions() -> None:
    model = LightGBMModel.fit(*lesson(), parameters=SMALL, seed=0)
    assert model.predict(np.empty((0, 4))).shape == (0,)


@pytest.mark.parametrize("data", [b"", b"not a model", b"\xff\xfe"])
def test_bytes_of_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(RegistryError):
        LightGBMModel.from_bytes(data)


def test_labels_must_be_finite() -> None:
    with pytest.raises(DataError, match="finite labels"):
        LightGBMModel.fit(np.zeros((2, 1)), np.array([1.0, np.nan]), parameters=SMALL, seed=0)
