"""Gradient-boosted trees (Ke et al. 2017), small and strongly regularised: returns are almost all noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import lightgbm
import numpy as np

from levibot.errors import RegistryError
from levibot.learning.models.forest import Forest
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.lightgbm_text import read_forest
from levibot.learning.models.model import Kind
from levibot.learning.models.sequence import ONE_ROW, Samples, Sequence
from levibot.market.bars import FloatArray

# One thread a booster: callers fit and predict several at once. Threads inside a booster wait for each other
# at every split, and on a busy machine they wait for long.
_THREADS = 1


@dataclass(frozen=True, slots=True)
class LightGBMParameters:
    """min_leaf_share: smallest leaf as a share of the training rows. The rest are LightGBM's own."""

    trees: int = 120
    learning_rate: float = 0.03
    leaves: int = 12
    min_leaf_share: float = 0.01
    row_share: float = 0.5
    column_share: float = 0.4
    l2: float = 50.0

    def for_lightgbm(self, n_rows: int, seed: int) -> dict[str, Any]:
        """Named as LightGBM names them; the same seed gives the same trees on any number of threads."""
        return {
            "objective": "regression",
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": max(1, int(n_rows * self.min_leaf_share)),
            "bagging_fraction": self.row_share,
            "bagging_freq": 1,
            "feature_fraction": self.column_share,
            "lambda_l2": self.l2,
            "max_bin": 63,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": _THREADS,
            "verbosity": -1,
        }


@dataclass(frozen=True, slots=True)
class LightGBMModel:
    """A fitted booster of one horizon. Implements Model."""

    kind: ClassVar[Kind] = "lightgbm"
    suffix: ClassVar[str] = "txt"

    booster: lightgbm.Booster

    @classmethod
    def fit(cls, lesson: Lesson, *, parameters: LightGBMParameters, seed: int) -> Self:
        """Least squares of the label of one horizon. Raises DataError."""
        lesson.check()
        labels = lesson.only_label()
        settings = parameters.for_lightgbm(len(labels), seed)
        # The bins are made here: the settings of the booster come too late for their number of threads.
        binning = {"max_bin": 63, "verbosity": -1, "num_threads": _THREADS}
        data = lightgbm.Dataset(
            lesson.samples.newest(), labels, weight=lesson.weights, free_raw_data=True, params=binning
        )
        # Through its text and back, so that a model in memory and the same model from disk cannot differ.
        booster = lightgbm.train(settings, data, num_boost_round=parameters.trees)
        return cls.from_bytes(booster.model_to_string().encode())

    @property
    def sequence(self) -> Sequence:
        return ONE_ROW

    @property
    def n_features(self) -> int:
        return int(self.booster.num_feature())

    @property
    def n_horizons(self) -> int:
        return 1

    def predict(self, samples: Samples) -> FloatArray:
        samples.check(self.n_features)
        if len(samples) == 0:
            return np.empty((0, 1))
        predicted: FloatArray = np.asarray(self.booster.predict(samples.newest(), num_threads=_THREADS))
        return predicted[:, None]

    def mean_abs_shap(self, features: FloatArray) -> FloatArray:
        """(F,) of (N, F): the mean absolute SHAP value of each feature, in units of the label."""
        values = np.asarray(self.booster.predict(features, pred_contrib=True, num_threads=_THREADS))
        # The last column is the mean prediction.
        mean: FloatArray = np.abs(values[:, :-1]).mean(axis=0)
        return mean

    def forest(self) -> Forest:
        """The trees themselves."""
        return read_forest(self.to_bytes())

    def to_bytes(self) -> bytes:
        text: str = self.booster.model_to_string()
        return text.encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        read_forest(data)
        try:
            return cls(lightgbm.Booster(model_str=data.decode()))
        except (lightgbm.basic.LightGBMError, ValueError) as exc:
            raise RegistryError("These bytes are not a LightGBM model in text form.") from exc
