"""The gate between a model and its ONNX form: only what predicts the same is served.

The exported graph is compared with the model it was made of on four sets of points: those of the training,
random ones, ones that lie on and beside the model's thresholds, and extreme ones. Above `LARGEST_DIFFERENCE`
the model itself is served, and the result says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from levibot.errors import DataError
from levibot.learning.learned import Learned
from levibot.learning.models.lightgbm import LightGBMModel
from levibot.learning.models.linear import LinearModel
from levibot.learning.models.lstm import LSTMModel
from levibot.learning.models.model import Kind, Model
from levibot.learning.models.onnx_graph import to_onnx
from levibot.learning.models.onnx_model import OnnxModel
from levibot.learning.models.sequence import Samples, Sequence
from levibot.learning.models.served_form import ServedForm
from levibot.learning.models.xgboost import XGBoostModel
from levibot.learning.signal import SignalModel
from levibot.market.bars import FloatArray

# In units of the label, whose standard deviation is about 1.
LARGEST_DIFFERENCE = 1e-5

# Points of a set, and points that are compared at once: a sequence is laid out as a history of its own.
_MOST_POINTS = 2_000
_BLOCK = 250

_EXTREMES = (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e38, 1e-300, 1e-45, 0.0, -0.0)

Form = Literal["onnx", "native"]


@dataclass(frozen=True, slots=True)
class Export:
    """A model's ONNX form beside the model.

    largest_differences: absolute, in units of the label, by set of points; inf where one of the two is not
    finite. served: the form to serve. why: in a sentence.
    """

    kind: Kind
    onnx: bytes
    largest_differences: Mapping[str, float]
    served: Form
    why: str

    def served_form(self) -> ServedForm:
        return ServedForm(self.to_json(), OnnxModel.from_bytes(self.onnx) if self.served == "onnx" else None)

    def to_json(self) -> dict[str, Any]:
        """What the metadata of a version say of it; JSON values."""
        return {
            "kind": self.kind,
            "served": self.served,
            "why": self.why,
            # JSON has no infinity.
            "largest_differences": {
                name: difference if np.isfinite(difference) else None
                for name, difference in self.largest_differences.items()
            },
        }


def export_signal(model: SignalModel, features: FloatArray, *, rng: np.random.Generator) -> SignalModel:
    """The same signal, its models in the form in which they are served.

    features: (T, S, F) that the model was trained on. What was found is in the model's metadata. Raises
    DataError where no row has a feature.
    """
    points = Samples(features, *np.nonzero(np.isfinite(features).any(axis=2)))
    return replace(model, learned=tuple(export_member(member, points, rng=rng) for member in model.learned))


def export_member(member: Learned, training: Samples, *, rng: np.random.Generator) -> Learned:
    """The same member, each of its models in the form in which it is served. Raises DataError."""
    forms = tuple(export(model, training, rng=rng).served_form() for model in member.models)
    return replace(member, forms=forms)


def export(model: Model, training: Samples, *, rng: np.random.Generator) -> Export:
    """The ONNX form of a model, and which of the two is served.

    training: points that the model was fitted on. Raises DataError without any.
    """
    data = to_onnx(model)
    return judge(model, data, training, rng=rng)


def judge(model: Model, onnx: bytes, training: Samples, *, rng: np.random.Generator) -> Export:
    """Compare a model with a graph that is said to be its ONNX form. Raises DataError, RegistryError."""
    exported = OnnxModel.from_bytes(onnx)
    differences = {
        name: _largest_difference(model, exported, points)
        for name, points in comparison_points(model, training, rng).items()
    }
    where = max(differences, key=lambda name: differences[name])
    largest = differences[where]
    served: Form = "onnx" if largest <= LARGEST_DIFFERENCE else "native"
    side = "at most" if served == "onnx" else "more than"
    why = (
        f"The ONNX form differs by {largest:.2g} at the most, on {where} points: {side} the "
        f"{LARGEST_DIFFERENCE:g} that are allowed."
    )
    return Export(model.kind, onnx, differences, served, why)


def comparison_points(model: Model, training: Samples, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Sets of (N, steps, F) points by name. Raises DataError without points to begin with."""
    if len(training) == 0:
        raise DataError("An export is judged on points of the training: there are none.")
    chosen = np.sort(rng.choice(len(training), min(_MOST_POINTS, len(training)), replace=False))
    points = Samples(training.features, training.row[chosen], training.column[chosen]).sequences(
        model.sequence
    )
    rows = points.reshape(-1, points.shape[-1])
    finite = np.where(np.isfinite(rows), rows, 0.0)
    centre, spread = finite.mean(axis=0), finite.std(axis=0)
    shape = (min(_MOST_POINTS, 4 * len(points)), *points.shape[1:])
    return {
        "training": points,
        "random": centre + 3.0 * spread * rng.standard_normal(shape),
        "near-threshold": _near_thresholds(model, points, rng),
        "extreme": _extremes(points, rng),
    }


def thresholds_of(model: Model) -> tuple[tuple[int, float], ...]:
    """(feature, value) at each place where the model's formula changes."""
    if isinstance(model, LightGBMModel | XGBoostModel):
        trees = model.forest().trees
        return tuple(
            (int(feature), float(value))
            for tree in trees
            for feature, value in zip(tree.feature, tree.threshold, strict=True)
        )
    if isinstance(model, LinearModel | LSTMModel):
        scale = model.standardisation
        return tuple(
            (feature, float(mean + side * scale.clip / inverse))
            for feature, (mean, inverse) in enumerate(zip(scale.mean, scale.inverse_scale, strict=True))
            if inverse > 0.0
            for side in (-1.0, 1.0)
        )
    raise TypeError(f"The thresholds of {type(model).__name__} are not known.")


def _near_thresholds(model: Model, points: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Points of the training, each moved in one feature of one row onto a threshold or just beside it."""
    found = [near for feature, value in thresholds_of(model) for near in _near(feature, value)]
    if len(found) > _MOST_POINTS:
        found = [found[k] for k in np.sort(rng.choice(len(found), _MOST_POINTS, replace=False))]
    moved: FloatArray = points[rng.integers(len(points), size=len(found))]
    step = rng.integers(points.shape[1], size=len(found))
    for k, (feature, value) in enumerate(found):
        moved[k, step[k], feature] = value
    return moved


def _near(feature: int, value: float) -> Iterator[tuple[int, float]]:
    single = np.float32(value)
    yield feature, value
    yield feature, float(single)
    for towards in (-np.inf, np.inf):
        yield feature, float(np.nextafter(value, towards))
        yield feature, float(np.nextafter(single, np.float32(towards)))
        yield feature, value + float(np.copysign(1e-6, towards))


def _extremes(points: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Points of one extreme value, points of one extreme feature, and points of any mixture of them."""
    uniform = np.array([np.full(points.shape[1:], value) for value in _EXTREMES])
    single = points[rng.integers(len(points), size=_BLOCK)]
    for point in single:
        point[:, rng.integers(points.shape[2])] = rng.choice(_EXTREMES)
    mixed = points[rng.integers(len(points), size=_BLOCK)]
    is_extreme = rng.random(mixed.shape) < 0.3
    mixed[is_extreme] = rng.choice(_EXTREMES, size=int(is_extreme.sum()))
    return np.concatenate([uniform, single, mixed])


def _largest_difference(model: Model, exported: OnnxModel, points: FloatArray) -> float:
    largest = 0.0
    for begin in range(0, len(points), _BLOCK):
        samples = _as_samples(points[begin : begin + _BLOCK], model.sequence)
        native, other = model.predict(samples), exported.predict(samples)
        if not (np.isfinite(native).all() and np.isfinite(other).all()):
            return float("inf")
        largest = max(largest, float(np.abs(native - other).max()))
    return largest


def _as_samples(points: FloatArray, sequence: Sequence) -> Samples:
    """Sequences (N, steps, F) as the newest rows of N symbols."""
    n_points, _, n_features = points.shape
    history = np.full((sequence.window_bars, n_points, n_features), np.nan)
    history[:: sequence.every_bars] = points.transpose(1, 0, 2)
    return Samples(history, np.full(n_points, sequence.reach_bars), np.arange(n_points))
