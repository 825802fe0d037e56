"""From what was known of a market to a signal model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np

from levibot.errors import DataError
from levibot.features.inputs import SLOW_MIN_BARS
from levibot.learning.barriers import triple_barriers, uniqueness
from levibot.learning.labels import Labels, RowArray
from levibot.learning.learned import learn
from levibot.learning.models.kinds import ModelParameters
from levibot.learning.models.lesson import FEWEST_ROWS, Lesson
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.models.linear import LinearParameters
from levibot.learning.models.lstm import LSTMParameters
from levibot.learning.models.model import Kind
from levibot.learning.models.sequence import Samples
from levibot.learning.models.sequence import Sequence as RowSequence
from levibot.learning.models.xgboost import XGBoostParameters
from levibot.learning.past import Knowledge
from levibot.learning.signal import SignalModel, SignalParameters
from levibot.learning.walk_forward import EMBARGO_BARS, BoolArray, purged_folds, usable_rows
from levibot.market.bars import FIELDS, FloatArray, Panel

# (steps done, steps in all, what was done)
Progress = Callable[[int, int, str], None]

# What is taught: the return over the horizon, or at the first of three barriers.
Target = Literal["forward_return", "triple_barrier"]
# What a row counts in a fit: one like the other, or by how much of its label no other label reads.
Weighting = Literal["equal", "uniqueness"]

# A fold leaves about half of them, in the worst case.
MIN_ROWS = 2 * FEWEST_ROWS


@dataclass(frozen=True, slots=True)
class TrainingParameters:
    """How regressors are fitted.

    kinds: of models. every_bars: of neighbouring rows, whose labels overlap, one in so many teaches.
    n_models: regressors a kind and horizon, each with its own seed and its own phase of those rows. n_folds:
    purged folds whose predictions give the usual size and the calibration. embargo_bars: kept between the
    reach of a label and whatever must not see it. What takes longer has its own every_bars and n_folds.
    barrier_deviations: how far the barriers of `triple_barrier` are away. Raises DataError on another target
    or weighting.
    """

    booster: LightGBMParameters = field(default_factory=LightGBMParameters)
    every_bars: int = 4
    n_models: int = 2
    n_folds: int = 4
    embargo_bars: int = EMBARGO_BARS
    kinds: tuple[Kind, ...] = ("lightgbm",)
    xgboost: XGBoostParameters = field(default_factory=XGBoostParameters)
    linear: LinearParameters = field(default_factory=LinearParameters)
    lstm: LSTMParameters = field(default_factory=LSTMParameters)
    xgboost_folds: int = 2
    lstm_every_bars: int = 8
    lstm_folds: int = 2
    target: Target = "forward_return"
    barrier_deviations: float = 1.0
    weighting: Weighting = "equal"

    def __post_init__(self) -> None:
        for name, value, known in (("target", self.target, Target), ("weighting", self.weighting, Weighting)):
            if value not in get_args(known):
                raise DataError(f"{name} is {value!r}: it must be one of {', '.join(get_args(known))}.")

    def of(self, kind: Kind) -> tuple[ModelParameters, TrainingParameters]:
        """The parameters of a kind's models, and of its training."""
        if kind == "lstm":
            return self.lstm, replace(self, every_bars=self.lstm_every_bars, n_folds=self.lstm_folds)
        if kind == "xgboost":
            return self.xgboost, replace(self, n_folds=self.xgboost_folds)
        return (self.booster if kind == "lightgbm" else self.linear), self

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same parameters again. Raises TypeError or KeyError on other names."""
        return cls(
            **{
                **values,
                "booster": LightGBMParameters(**values["booster"]),
                "kinds": tuple(values["kinds"]),
                "xgboost": XGBoostParameters(**values["xgboost"]),
                "linear": LinearParameters(**values["linear"]),
                "lstm": LSTMParameters(**values["lstm"]),
            }
        )

    def lessons_of(self, kind: Kind, horizons_bars: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The horizons that one model of a kind learns together: a net all of them, the others one each."""
        return (horizons_bars,) if kind == "lstm" else tuple((bars,) for bars in horizons_bars)


SIGNAL = SignalParameters()
# What is trained where nothing else is said.
TRAINING = TrainingParameters(kinds=("lightgbm", "xgboost", "lstm", "linear"))


class Fit(Protocol):
    """What makes a model: `train`, or what gives the same."""

    def __call__(
        self,
        known: Knowledge,
        *,
        seed: int,
        train_start: datetime,
        signal: SignalParameters,
        training: TrainingParameters,
        kinds: Sequence[Kind] | None,
    ) -> SignalModel:
        """See `train`."""
        ...


def train(
    known: Knowledge,
    *,
    seed: int,
    train_start: datetime,
    signal: SignalParameters = SIGNAL,
    training: TrainingParameters = TRAINING,
    kinds: Sequence[Kind] | None = None,
    progress: Progress | None = None,
) -> SignalModel:
    """Fit a signal model on what is known.

    kinds: those of `training.kinds` that are fitted here, all where left out; a kind's models do not depend
    on which others are. Rows before train_start only warmed the features up. Labels that reach beyond
    `known.as_of` less the embargo are not read. The same knowledge, window, seed and parameters give the
    same model.
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
    fits = [
        (kind, bars)
        for kind in (training.kinds if kinds is None else kinds)
        for bars in training.lessons_of(kind, signal.horizons_bars)
    ]
    n_fits = sum(training.n_models + training.of(kind)[1].n_folds for kind, _ in fits)
    steps = _Steps(n_fits, progress)
    learned = []
    for kind, horizons_bars in fits:
        labels = [labels_for(known, bars, training) for bars in horizons_bars]
        # The label that is known last decides for all that are learned together.
        available_at = max(labels, key=lambda label: label.horizon_bars).available_at
        usable = usable_rows(panel.ts, available_at, start=train_start, fit_at=train_end, embargo=embargo)
        parameters, schedule = training.of(kind)
        lessons = _lessons(panel, known.features, labels, usable, schedule)
        fewest = min(len(lesson) for lesson in lessons)
        if fewest < MIN_ROWS:
            raise DataError(
                f"Training from {train_start:%Y-%m-%d} to {train_end:%Y-%m-%d} has {fewest} rows with a "
                f"label; {MIN_ROWS} are needed, which takes about {needed} bars of each symbol."
            )
        taught = np.zeros(len(panel), dtype=np.bool_)
        taught[lessons[0].samples.row] = True
        folds = purged_folds(panel.ts, available_at, taught, n_folds=schedule.n_folds, embargo=embargo)
        learned.append(
            learn(
                lessons,
                folds,
                horizons_bars=horizons_bars,
                parameters=parameters,
                seed=seed,
                finished=partial(steps.finish, kind, horizons_bars),
            )
        )
    return SignalModel(
        view=known.view,
        view_version=known.view_version,
        feature_names=known.feature_names,
        symbols=panel.symbols,
        interval=panel.interval,
        parameters=signal,
        training=training.to_json(),
        train_start=train_start,
        train_end=train_end,
        seed=seed,
        data_hash=hash_panel(panel),
        learned=tuple(learned),
    )


def labels_for(known: Knowledge, horizon_bars: int, training: TrainingParameters) -> Labels:
    """What the training's target was for each row, as far as it was known. Raises DataError without it."""
    if training.target == "forward_return":
        return known.labels_of(horizon_bars)
    vol_slow = known.features[:, :, known.feature_names.index("vol_slow")]
    # Of the finished bars alone: what they have not decided is not known.
    return triple_barriers(known.panel, vol_slow, horizon_bars, deviations=training.barrier_deviations)


def needed_bars(
    n_symbols: int, signal: SignalParameters = SIGNAL, training: TrainingParameters = TRAINING
) -> int:
    """Bars below which `train` refuses: warm-up, labels, embargo, and rows enough to teach."""
    every_bars = max(training.of(kind)[1].every_bars for kind in training.kinds)
    teaching = ceil(MIN_ROWS * every_bars / n_symbols)
    return SLOW_MIN_BARS + 1 + teaching + max(signal.horizons_bars) + 1 + training.embargo_bars


def window_bars(signal: SignalParameters = SIGNAL, training: TrainingParameters = TRAINING) -> int:
    """Rows of features that a model of these parameters reads for one answer."""
    net = RowSequence(training.lstm.steps, training.lstm.every_bars)
    return signal.window_bars + (net.reach_bars if "lstm" in training.kinds else 0)


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

    def finish(self, kind: Kind, horizons_bars: tuple[int, ...], n_fitted: int, n_fits: int) -> None:
        self.done += 1
        if self.progress is not None:
            ahead = " and ".join(str(bars) for bars in horizons_bars)
            self.progress(self.done, self.total, f"{kind}, {ahead} bars ahead, fit {n_fitted} of {n_fits}")


def _lessons(
    panel: Panel,
    features: FloatArray,
    labels: list[Labels],
    usable: BoolArray,
    training: TrainingParameters,
) -> list[Lesson]:
    """One lesson a regressor. Its phase comes from the clock, so it does not move with the panel's start."""
    bar = panel.ts.astype("datetime64[us]").astype(np.int64) // _microseconds(panel.interval)
    phase = bar % training.every_bars
    values = np.stack([label.values for label in labels], axis=2)
    has_signal = np.isfinite(features).any(axis=2) & np.isfinite(values).all(axis=2)
    reach_bars = max(label.horizon_bars for label in labels) + 1 + training.embargo_bars
    lessons = []
    for k in range(training.n_models):
        mine = usable & (phase == k % training.every_bars)
        rows, columns = np.nonzero(has_signal & mine[:, None])
        weights = None if training.weighting == "equal" else _weights(labels, rows, columns)
        lessons.append(Lesson(Samples(features, rows, columns), values[rows, columns], reach_bars, weights))
    return lessons


def _weights(labels: list[Labels], rows: RowArray, columns: RowArray) -> FloatArray:
    """(N,) with a mean of 1: the uniqueness of each point's labels among those of its symbol."""
    found = np.zeros(len(rows))
    for column in np.unique(columns):
        mine = columns == column
        for label in labels:
            found[mine] += uniqueness(rows[mine] + 1, label.ends()[rows[mine], column])
    weights: FloatArray = found / found.mean()
    return weights


def _microseconds(interval: timedelta) -> int:
    return interval // timedelta(microseconds=1)
