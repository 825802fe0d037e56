"""Ridge regression (Hoerl & Kennard 1970) on standardised features, in closed form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from levibot.errors import RegistryError
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.model import Kind
from levibot.learning.models.sequence import ONE_ROW, Samples, Sequence
from levibot.learning.models.standardisation import Standardisation
from levibot.market.bars import FloatArray

_KIND = "ridge"
# Rows whose products are added up at once.
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class LinearParameters:
    """l2: penalty a row, so that it does not fade as rows are added. clip: standard deviations."""

    l2: float = 0.05
    clip: float = 5.0


@dataclass(frozen=True, slots=True)
class LinearModel:
    """A weight for each feature and horizon. Implements Model.

    weights: (F, H).
    """

    kind: ClassVar[Kind] = "linear"
    suffix: ClassVar[str] = "json"

    standardisation: Standardisation
    weights: FloatArray

    @classmethod
    def fit(cls, lesson: Lesson, *, parameters: LinearParameters, seed: int) -> Self:  # noqa: ARG003
        """Least squares with a penalty; nothing is drawn, so the seed changes nothing. Raises DataError."""
        lesson.check()
        features = lesson.samples.newest()
        standardisation = Standardisation.fit(features, parameters.clip)
        design = standardisation.apply(features)
        penalty = parameters.l2 * len(lesson) * np.eye(design.shape[1])
        products, moments = np.zeros_like(penalty), np.zeros((design.shape[1], lesson.labels.shape[1]))
        for begin in range(0, len(lesson), _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            weighed = design[rows] if lesson.weights is None else design[rows] * lesson.weights[rows, None]
            products += weighed.T @ design[rows]
            moments += weighed.T @ lesson.labels[rows]
        weights: FloatArray = np.linalg.solve(products + penalty, moments).astype(np.float64, copy=False)
        return cls(standardisation, weights)

    @property
    def sequence(self) -> Sequence:
        return ONE_ROW

    @property
    def n_features(self) -> int:
        return len(self.weights)

    @property
    def n_horizons(self) -> int:
        return int(self.weights.shape[1])

    def predict(self, samples: Samples) -> FloatArray:
        samples.check(self.n_features)
        predicted: FloatArray = self.standardisation.apply(samples.newest()) @ self.weights
        return predicted

    def mean_abs_shap(self, features: FloatArray) -> FloatArray:
        """(F,) of (N, F), over the horizons: mean absolute SHAP value of each feature, in units of the label.

        Of a linear model that is its weight times the distance from the mean of the rows, features taken as
        independent (Lundberg & Lee 2017, corollary 1).
        """
        design = self.standardisation.apply(features)
        spread = np.abs(design - design.mean(axis=0)).mean(axis=0)
        mean: FloatArray = spread * np.abs(self.weights).mean(axis=1)
        return mean

    def to_bytes(self) -> bytes:
        scale = self.standardisation
        numbers = {
            "kind": _KIND,
            "mean": scale.mean.tolist(),
            "inverse_scale": scale.inverse_scale.tolist(),
            "clip": scale.clip,
            "weights": self.weights.tolist(),
        }
        return json.dumps(numbers, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        try:
            numbers = json.loads(data)
            if numbers["kind"] != _KIND:
                raise RegistryError(f"The model is of kind {numbers['kind']!r}, not {_KIND!r}.")
            mean, inverse, weights = (
                np.array(numbers[name], dtype=np.float64) for name in ("mean", "inverse_scale", "weights")
            )
            clip = float(numbers["clip"])
        except (KeyError, TypeError, ValueError) as exc:
            raise RegistryError(f"These bytes are not a linear model in JSON form: {exc!r}.") from exc
        is_sound = weights.ndim == 2 and weights.size > 0 and mean.shape == inverse.shape == (len(weights),)
        if not is_sound or not all(np.isfinite(part).all() for part in (mean, inverse, weights, clip)):
            raise RegistryError(
                f"The linear model has {mean.shape} means, {inverse.shape} scales and {weights.shape} "
                "weights: they do not fit each other, or are not finite."
            )
        return cls(Standardisation(mean, inverse, clip), weights)
