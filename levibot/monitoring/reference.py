"""What features look like while nothing is wrong: learned from the rows that a model was trained on.

A day of a market is a handful of independent values, however many rows it has: hours resemble each other, and
so do coins. So how far a day may lie from the reference is not computed but looked up: at the days of the
reference itself.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from levibot.errors import DataError
from levibot.features.rolling import BoolArray
from levibot.market.bars import FloatArray
from levibot.monitoring.distribution import Distribution, window_sums

FILE = "drift_reference.npz"
# Of the days of a feature in the reference, so many lie beyond one of its limits.
ALARM_SHARE = 0.006
MEASURES = ("psi", "own_psi", "own_shift", "own_jump")
MIN_DAYS = 90
# Days are looked at from several hours on: more of them, and no limit depends on midnight.
STARTS_A_DAY = 4
# What is farther out counts as so far.
LONGEST_SD = 8.0
RIDGE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class DriftReference:
    """The reference of some features. F features, W rows a day, S symbols of any number.

    mean, sd: (F,). own_now, own_then: (F, F), how a feature's own part follows from all features now and a
    day before, in standard deviations; step_now, step_then: the same for a row before. values, own:
    distributions. own_sd, step_sd: (F,) of the own parts. limits: (4, F), in the order of MEASURES.
    """

    names: tuple[str, ...]
    rows_a_day: int
    n_days: int
    mean: FloatArray
    sd: FloatArray
    own_now: FloatArray
    own_then: FloatArray
    step_now: FloatArray
    step_then: FloatArray
    values: Distribution
    own: Distribution
    limits: FloatArray

    @classmethod
    def fit(cls, features: FloatArray, names: tuple[str, ...], rows_a_day: int) -> Self:
        """From features (T, S, F) in the order of `names`; NaN is not known, and left out.

        Raises DataError when fewer than MIN_DAYS days have a row with all features of a symbol.
        """
        complete: BoolArray = np.asarray(np.isfinite(features).all(axis=2))
        n_days = int(np.any(complete, axis=1).sum()) // rows_a_day
        if n_days < MIN_DAYS:
            raise DataError(
                f"The reference of {len(names)} features has {n_days} days with all of them; "
                f"{MIN_DAYS} are needed."
            )
        known = features[complete]
        mean, sd = known.mean(axis=0), known.std(axis=0)
        sd = np.where(sd > 0.0, sd, 1.0)
        scaled = _scaled(features, mean, sd)
        own_now, own_then = _own_parts(scaled, rows_a_day)
        step_now, step_then = _own_parts(scaled, 1)
        draft = cls(
            names,
            rows_a_day,
            n_days,
            mean,
            sd,
            own_now,
            own_then,
            step_now,
            step_then,
            Distribution.of(features.reshape(-1, len(names))),
            Distribution.of(np.empty((0, len(names)))),
            np.empty((len(MEASURES), len(names))),
        )
        own = draft._own(scaled)
        draft = replace(draft, own=Distribution.of(own.reshape(-1, len(names))))
        stride = max(1, rows_a_day // STARTS_A_DAY)
        measured = draft._measured(features, stride)
        level = 1.0 - ALARM_SHARE / len(MEASURES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            limits = np.nanquantile(measured, level, axis=1)
        return replace(draft, limits=limits)

    def measure(self, features: FloatArray) -> FloatArray:
        """(4, F): the measures of the last day of features (T, S, F), T of at least two days.

        In the order of MEASURES: PSI of the values; of each feature's own part (what neither the other
        features nor the day before explain) the PSI and the distance of its mean from zero; and the largest
        step in one row that neither the others nor the row before explain, as the mean over the symbols. The
        last two in standard deviations of the feature. NaN where a feature has no value.
        Raises DataError on other features or fewer rows.
        """
        rows = 2 * self.rows_a_day
        if features.ndim != 3 or features.shape[0] < rows or features.shape[2] != len(self.names):
            raise DataError(
                f"Features have shape {features.shape}: drift is measured on at least {rows} rows of "
                f"{len(self.names)} features."
            )
        return self._measured(features[-rows:], 1)[:, -1]

    def to_bytes(self) -> bytes:
        """A NumPy archive, without pickles."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        for part in ("values", "own"):
            distribution: Distribution = getattr(self, part)
            arrays |= {f"{part}_edges": distribution.edges, f"{part}_shares": distribution.shares}
        file = io.BytesIO()
        np.savez_compressed(
            file, names=np.array(self.names), counts=np.array([self.rows_a_day, self.n_days]), **arrays
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave. Raises DataError on anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            names = tuple(str(name) for name in arrays["names"])
            rows_a_day, n_days = (int(count) for count in arrays["counts"])
            _check_shapes(arrays, len(names))
            fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
            for part in ("values", "own"):
                fields[part] = Distribution(arrays[f"{part}_edges"], arrays[f"{part}_shares"])
            return cls(names=names, rows_a_day=rows_a_day, n_days=n_days, **fields)
        except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise DataError(f"The file is no reference of features: {exc}.") from exc

    def _own(self, scaled: FloatArray) -> FloatArray:
        """(T - W, S, F): what of each row is not explained by the others and the day before."""
        before = scaled[: len(scaled) - self.rows_a_day]
        return _times(scaled[self.rows_a_day :], self.own_now) + _times(before, self.own_then)

    def _measured(self, features: FloatArray, stride: int) -> FloatArray:
        """(4, windows, F) of every day in features that begins `stride` rows after the one before."""
        day, scaled = self.rows_a_day, _scaled(features, self.mean, self.sd)
        own = self._own(scaled)
        step = (_times(scaled[1:], self.step_now) + _times(scaled[:-1], self.step_then))[day - 1 :]
        known = np.isfinite(own)
        n_known = window_sums(known.sum(axis=1), day, stride)
        total = window_sums(np.where(known, own, 0.0).sum(axis=1), day, stride)
        with warnings.catch_warnings():
            # Of nothing there is no mean and no largest.
            warnings.simplefilter("ignore", RuntimeWarning)
            shift = np.abs(total / n_known)
            steps = np.abs(np.nanmean(step, axis=1))
            jump = np.nanmax(sliding_window_view(steps, day, axis=0)[::stride], axis=2)
        psi = self.values.psi(features[day:], day, stride)
        return np.stack([psi, self.own.psi(own, day, stride), shift, jump])


_ARRAYS = ("mean", "sd", "own_now", "own_then", "step_now", "step_then", "limits")


def _scaled(features: FloatArray, mean: FloatArray, sd: FloatArray) -> FloatArray:
    # In C order, in which rows of features are multiplied as one matrix.
    scaled = np.subtract(features, mean, order="C")
    scaled /= sd
    return np.clip(scaled, -LONGEST_SD, LONGEST_SD, out=scaled)


def _times(rows: FloatArray, factors: FloatArray) -> FloatArray:
    """(T, S, F) of rows (T, S, F), in C order, and factors (F, F)."""
    return (rows.reshape(-1, rows.shape[2]) @ factors).reshape(rows.shape)


def _own_parts(scaled: FloatArray, lag: int) -> tuple[FloatArray, FloatArray]:
    """(F, F) twice: factors of the features now and `lag` rows before, whose sum is each one's own part.

    The own part of a feature is its residual from a ridge regression on the other features now and on all of
    them `lag` rows before: a row of the inverse of their covariance, over its diagonal.
    """
    pairs = np.concatenate([scaled[lag:], scaled[: len(scaled) - lag]], axis=2)
    known = pairs[np.isfinite(pairs).all(axis=2)]
    n_features = scaled.shape[2]
    covariance = np.cov(known, rowvar=False) + RIDGE * np.eye(2 * n_features)
    inverse = np.linalg.inv(covariance)[:, :n_features]
    factors = inverse / np.diagonal(inverse)
    return factors[:n_features], factors[n_features:]


def _check_shapes(arrays: Mapping[str, Any], n_features: int) -> None:
    square = (n_features, n_features)
    shapes = {"mean": square[:1], "sd": square[:1], "limits": (len(MEASURES), n_features)}
    shapes |= dict.fromkeys(("own_now", "own_then", "step_now", "step_then"), square)
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
