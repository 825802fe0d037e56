"""From what was known of a market to a signal model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.features.inputs import SLOW_MIN_BARS
from levibot.learning.calibration import Platt, fit_platt
from levibot.learning.labels import Labels
from levibot.learning.models.lightgbm import LightGBMModel, LightGBMParameters
from levibot.learning.past import Knowledge
from levibot.learning.signal import Learned, SignalModel, SignalParameters
from levibot.learning.walk_forward import EMBARGO_BARS, BoolArray, purged_folds, usable_rows
from levibot.market.bars import FIELDS, FloatArray, Panel

# (steps done, steps in all, what was done)
Progress = Callable[[int, int, str], None]

_FITS_AT_ONCE = 2

# Fewer pooled rows than this teach nothing but noise.
MIN_ROWS = 400


@dataclass(frozen=True, slots=True)
class TrainingParameters:
    """How regressors are fitted.

    every_bars: of neighbouring rows, whose labels overlap, one in so many teaches. n_models: regressors a
    horizon, each with its own seed and its own phase of those rows. n_folds: purged folds whose predictions
    give the usual size and the calibration. embargo_bars: kept between the reach of a label and whatever
    must not see it.
    """

    booster: LightGBMParameters = field(default_factory=LightGBMParameters)
    every_bars: int = 4
    n_models: int = 2
    n_folds: int = 4
    embargo_bars: int = EMBARGO_BARS


SIGNAL = SignalParameters()
TRAINING = TrainingParameters()


@dataclass(frozen=True, slots=True)
class _Lesson:
    """Pooled rows that may teach one horizon. row: (N,) of the panel. features: (N, F). label: (N,)."""

    row: npt.NDArray[np.intp]
    features: FloatArray
    label: FloatArray

    def among(self, rows: BoolArray) -> _Lesson:
        kept = rows[self.row]
        return _Lesson(self.row[kept], self.features[kept], self.label[kept])

    def fit(self, booster: LightGBMParameters, seed: int) -> LightGBMModel:
        if len(self.label) < MIN_ROWS // 2:
            raise DataError(
                f"{len(self.label)} rows are too few to fit a regressor: {MIN_ROWS // 2} are needed."
            )
        # The mean is the market's drift, not something the features know; left in, it becomes a position.
        return LightGBMModel.fit(self.features, self.label - self.label.mean(), parameters=booster, seed=seed)


def train(
    known: Knowledge,
    *,
    seed: int,
    train_start: datetime,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    progress: Progress | None = None,
) -> SignalModel:
    """Fit a signal model on what is known.

    Rows before train_start only warmed the features up. Labels that reach beyond `known.as_of` less the
    embargo are not read. The same knowledge, window, seed and parameters give the same model.
    Raises DataError when too few rows can teach, and says how many bars are needed.
    """
    panel, train_end = known.panel, known.as_of
    needed = needed_bars(len(panel.symbols), signal, training)
    if len(panel) < needed:
        raise DataError(
            f"Training needs at least {needed} bars before {train_end:%Y-%m-%d %H:%M}; "
            f"there are {len(panel)}."
        )
    embargo = training.embargo_bars * panel.interval
    steps = _Steps(len(signal.horizons_bars) * (training.n_models + training.n_folds), progress)
    learned = []
    calibration = Platt(0.0, 0.0)
    for horizon_bars in signal.horizons_bars:
        labels = known.labels_of(horizon_bars)
        usable = usable_rows(
            panel.ts, labels.available_at, start=train_start, fit_at=train_end, embargo=embargo
        )
        lessons = _lessons(panel, known.features, labels, usable, training.every_bars, training.n_models)
        fewest = min(len(lesson.label) for lesson in lessons)
        if fewest < MIN_ROWS:
            raise DataError(
                f"Training from {train_start:%Y-%m-%d} to {train_end:%Y-%m-%d} has {fewest} rows with a "
                f"label; {MIN_ROWS} are needed, which takes about {needed} bars of each symbol."
            )
        part, calibration = _learn(lessons, panel, labels, embargo, training, seed, steps)
        learned.append(part)
    return SignalModel(
        view=known.view,
        view_version=known.view_version,
        feature_names=known.feature_names,
        symbols=panel.symbols,
        interval=panel.interval,
        parameters=signal,
        training=asdict(training),
        train_start=train_start,
        train_end=train_end,
        seed=seed,
        data_hash=hash_panel(panel),
        learned=tuple(learned),
        calibration=calibration,
    )


def needed_bars(
    n_symbols: int, signal: SignalParameters = SIGNAL, training: TrainingParameters = TRAINING
) -> int:
    """Bars below which `train` refuses: warm-up, labels, embargo, and rows enough to teach."""
    teaching = ceil(MIN_ROWS * training.every_bars / n_symbols)
    return SLOW_MIN_BARS + 1 + teaching + max(signal.horizons_bars) + 1 + training.embargo_bars


def hash_panel(panel: Panel) -> str:
    """SHA-256 of the bars a run has seen: symbols, interval, instants, every field and side series."""
    digest = hashlib.sha256(repr((panel.symbols, panel.interval)).encode())
    digest.update(np.ascontiguousarray(panel.ts).tobytes())
    for name in FIELDS:
        digest.update(np.ascontiguousarray(getattr(panel, name)).tobytes())
    for name, series in sorted(panel.extra.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(series).tobytes())
    return digest.hexdigest()


@dataclass(slots=True)
class _Steps:
    """Counts the steps of a training and reports them."""

    total: int
    progress: Progress | None
    done: int = 0

    def finish(self, what: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, what)


def _lessons(
    panel: Panel, features: FloatArray, labels: Labels, usable: BoolArray, every_bars: int, n_models: int
) -> list[_Lesson]:
    """One lesson a regressor. Its phase comes from the clock, so it does not move with the panel's start."""
    phase = (panel.ts.astype("datetime64[us]").astype(np.int64) // _microseconds(panel.interval)) % every_bars
    has_signal = np.isfinite(features).any(axis=2) & np.isfinite(labels.values)
    lessons = []
    for k in range(n_models):
        rows, columns = np.nonzero(has_signal & (usable & (phase == k % every_bars))[:, None])
        lessons.append(_Lesson(rows, features[rows, columns], labels.values[rows, columns]))
    return lessons


def _learn(
    lessons: list[_Lesson],
    panel: Panel,
    labels: Labels,
    embargo: timedelta,
    training: TrainingParameters,
    seed: int,
    steps: _Steps,
) -> tuple[Learned, Platt]:
    """Regressors of one horizon, the usual size of their predictions, and what these say of the sign."""
    lesson = lessons[0]
    taught = np.zeros(len(panel), dtype=np.bool_)
    taught[lesson.row] = True
    folds = purged_folds(panel.ts, labels.available_at, taught, n_folds=training.n_folds, embargo=embargo)
    score = np.empty(len(lesson.label))

    def fit_whole(number: int) -> LightGBMModel:
        return lessons[number].fit(training.booster, seed * 1_000 + number)

    def fit_fold(number: int) -> None:
        teach, judge = folds[number]
        model = lesson.among(teach).fit(training.booster, seed * 1_000)
        # By the thread that fitted it: the folds judge disjoint rows.
        judged = judge[lesson.row]
        score[judged] = model.predict(lesson.features[judged])

    n_jobs = len(lessons) + len(folds)
    with ThreadPoolExecutor(_FITS_AT_ONCE) as pool:
        wholes = [pool.submit(fit_whole, number) for number in range(len(lessons))]
        parts = [pool.submit(fit_fold, number) for number in range(len(folds))]
        jobs: list[Future[Any]] = [*wholes, *parts]
        for number, job in enumerate(jobs, start=1):
            job.result()
            steps.finish(f"{labels.horizon_bars} bars ahead, fit {number} of {n_jobs}")
    usual_size = float(np.sqrt(np.mean(np.square(score))))
    # Trees that found no split predict zero; the floor makes that no opinion instead of 0 / 0.
    part = Learned(
        labels.horizon_bars,
        tuple(whole.result() for whole in wholes),
        max(usual_size, 1e-9),
        float(lesson.label.mean()),
    )
    return part, fit_platt(score, lesson.label > 0.0)


def _microseconds(interval: timedelta) -> int:
    return interval // timedelta(microseconds=1)
