"""Models of one kind that predict together, and what their predictions for unseen rows say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from levibot.errors import RegistryError
from levibot.learning.calibration import Platt, calibration_error, fit_platt
from levibot.learning.models.kinds import ModelParameters, fit, from_bytes, kind_of
from levibot.learning.models.lesson import Lesson
from levibot.learning.models.model import Kind, Model
from levibot.learning.models.onnx_model import OnnxModel
from levibot.learning.models.sequence import Samples, Sequence
from levibot.learning.models.served_form import ServedForm
from levibot.learning.walk_forward import BoolArray
from levibot.market.bars import FloatArray

_FITS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Horizon:
    """What is known of a member's predictions for one horizon.

    usual_size: root mean square of predictions for rows the models were not fitted on. label_mean: taken off
    the labels before fitting. calibration: from those predictions to the probability that the label is above
    0. calibration_error: of probabilities for folds that the calibration was not fitted on.
    """

    bars: int
    usual_size: float
    label_mean: float
    calibration: Platt
    calibration_error: float


@dataclass(frozen=True, slots=True)
class Learned:
    """Models of one kind, each with its own seed and rows; their mean predicts. All predict H horizons.

    forms: in which each model is served; empty where no export was made and the models themselves predict.
    """

    kind: Kind
    horizons: tuple[Horizon, ...]
    models: tuple[Model, ...]
    forms: tuple[ServedForm, ...] = ()

    @property
    def sequence(self) -> Sequence:
        """The rows of the past that a prediction reads."""
        return self.models[0].sequence

    def predict(self, samples: Samples) -> FloatArray:
        """(N, H): volatility-scaled return over each horizon, less its `label_mean`."""
        forms = self.forms or (None,) * len(self.models)
        predictors = [
            model if form is None or form.onnx is None else form.onnx
            for model, form in zip(self.models, forms, strict=True)
        ]
        predicted: FloatArray = np.mean([one.predict(samples) for one in predictors], axis=0)
        return predicted

    def predict_proba(self, samples: Samples) -> FloatArray:
        """(N, H): the calibrated probability that the return over each horizon is above 0."""
        score = self.predict(samples)
        columns = [part.calibration.probability(score[:, h]) for h, part in enumerate(self.horizons)]
        return np.stack(columns, axis=1)

    def to_files(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The numbers as JSON values, and the models as named files."""
        bars = "_".join(f"h{part.bars}" for part in self.horizons)
        names = [f"{self.kind}_{bars}_{k}" for k in range(len(self.models))]
        files = {f"{name}.{m.suffix}": m.to_bytes() for name, m in zip(names, self.models, strict=True)}
        numbers: dict[str, Any] = {
            "kind": self.kind,
            "horizons": [asdict(part) for part in self.horizons],
            "models": list(files),
            "forms": [],
        }
        for name, form in zip(names, self.forms, strict=False):
            onnx_file = None if form.onnx is None else f"{name}.onnx"
            numbers["forms"].append({"report": dict(form.report), "onnx": onnx_file})
            if onnx_file is not None and form.onnx is not None:
                files[onnx_file] = form.onnx.data
        return numbers, files

    @classmethod
    def from_files(cls, numbers: Mapping[str, Any], files: Mapping[str, bytes]) -> Self:
        """The member again. Raises RegistryError on broken models, KeyError or TypeError on other numbers."""
        horizons = tuple(
            Horizon(
                int(part["bars"]),
                float(part["usual_size"]),
                float(part["label_mean"]),
                Platt(**part["calibration"]),
                float(part["calibration_error"]),
            )
            for part in numbers["horizons"]
        )
        models = tuple(from_bytes(numbers["kind"], files[name]) for name in numbers["models"])
        forms = tuple(
            ServedForm(
                form["report"], None if form["onnx"] is None else OnnxModel.from_bytes(files[form["onnx"]])
            )
            for form in numbers["forms"]
        )
        if len(forms) not in (0, len(models)):
            raise RegistryError(f"{len(models)} models of a member are served in {len(forms)} forms.")
        return cls(models[0].kind, horizons, models, forms)


def learn(
    lessons: list[Lesson],
    folds: tuple[tuple[BoolArray, BoolArray], ...],
    *,
    horizons_bars: tuple[int, ...],
    parameters: ModelParameters,
    seed: int,
    finished: Callable[[int, int], None] = lambda _done, _total: None,
) -> Learned:
    """Fit a model to each lesson, and judge the first lesson's by purged folds.

    lessons: labels not centred, all of the horizons `horizons_bars`. folds: (teach, judge) masks of the
    history's rows, which judge every point of the first lesson once. finished: called after each fit, with
    fits done and fits in all. The same arguments give the same member. Raises DataError.
    """
    first = lessons[0]
    jobs = [(lesson, seed * 1_000 + k) for k, lesson in enumerate(lessons)]
    jobs += [(first.among(teach), seed * 1_000) for teach, _ in folds]
    models: list[Model] = []
    with ThreadPoolExecutor(_FITS_AT_ONCE) as pool:
        for model in pool.map(lambda job: fit(job[0].centred(), parameters=parameters, seed=job[1]), jobs):
            models.append(model)
            finished(len(models), len(jobs))
    score = np.empty(first.labels.shape)
    fold = np.empty(len(first), dtype=np.intp)
    for number, ((_, judge), model) in enumerate(zip(folds, models[len(lessons) :], strict=True)):
        judged = judge[first.samples.row]
        score[judged] = model.predict(first.among(judge).samples)
        fold[judged] = number
    means = first.label_means()
    horizons = tuple(
        _judged(bars, np.ascontiguousarray(score[:, h]), first.labels[:, h] > 0.0, fold, float(means[h]))
        for h, bars in enumerate(horizons_bars)
    )
    return Learned(kind_of(parameters), horizons, tuple(models[: len(lessons)]))


def _judged(
    bars: int, score: FloatArray, happened: BoolArray, fold: np.ndarray[Any, Any], label_mean: float
) -> Horizon:
    # Trees that found no split predict zero; the floor makes that no opinion instead of 0 / 0.
    usual_size = max(float(np.sqrt(np.mean(np.square(score)))), 1e-9)
    said = np.empty(len(score))
    for number in np.unique(fold):
        mine = fold == number
        said[mine] = fit_platt(score[~mine], happened[~mine]).probability(score[mine])
    error = calibration_error(said, happened)
    return Horizon(bars, usual_size, label_mean, fit_platt(score, happened), error)
