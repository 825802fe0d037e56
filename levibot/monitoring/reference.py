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
from levibot.monitoring.distribution import Distribution, KnownValues, window_sums
from levibot.monitoring.own_part import OwnParts

FILE = "drift_reference.npz"
MEASURES = ("psi", "unseen", "own_shift", "own_jump")
# Of the days of a feature in the reference, so many lie beyond the limit of each measure of its own part.
OWN_ALARM_SHARE = 0.005
# Of the values of a day, so many may be values that the reference has not.
UNSEEN_SHARE = 0.05
MIN_DAYS = 90
# Days are looked at from several hours on: more of them, and no limit depends on midnight.
STARTS_A_DAY = 4
# Parts of the reference, the days of each of which are measured against the others: what a regression was
# fitted to it explains too well, and a slow feature is too much at home among its own months.
N_PARTS = 4
# A day as far out as the farthest of the reference is none that is farther.
MARGIN = 1.1
# Who looks every hour sees 24 days a day. With limits this much farther out false alarms stay rare.
HOURLY_MARGIN = 1.15
# What is farther out counts as so far.
LONGEST_SD = 8.0
# A feature that follows from the others to the last digit has an error of that size all the same, and limits
# of a Gaussian error's: a shift of a hundredth of a standard deviation is none.
SMALLEST_SIZE_SD = 0.1
SMALLEST_LIMITS = {"own_shift": 3.0, "own_jump": 4.0}


@dataclass(frozen=True, slots=True, eq=False)
class DriftReference:
    """The reference of some features. F features, W rows a day, S symbols of any number.

    mean, sd: (F,). values: their distribution. known: of features with few values, which. own: how each
    one's own part follows. limits: (4, F), in the order of MEASURES.
    """

    names: tuple[str, ...]
    rows_a_day: int
    n_days: int
    mean: FloatArray
    sd: FloatArray
    values: Distribution
    known: KnownValues
    own: OwnParts
    limits: FloatArray

    @classmethod
    def fit(cls, features: FloatArray, names: tuple[str, ...], rows_a_day: int, leader: int = 0) -> Self:
        """From features (T, S, F) in the order of `names`; NaN is not known, and left out.

        leader: column of the symbol that the others follow.
        Raises DataError when fewer than MIN_DAYS days have a row with all features of a symbol.
        """
        complete: BoolArray = np.asarray(np.isfinite(features).all(axis=2))
        n_days = int(np.any(complete, axis=1).sum()) // rows_a_day
        if n_days < MIN_DAYS:
            raise DataError(
                f"The reference of {len(names)} features has {n_days} days with all of them; "
                f"{MIN_DAYS} are needed."
            )
        rows = features[complete]
        mean, sd = rows.mean(axis=0), rows.std(axis=0)
        sd = np.where(sd > 0.0, sd, 1.0)
        flat = features.reshape(-1, len(names))
        draft = cls(
            names,
            rows_a_day,
            n_days,
            mean,
            sd,
            Distribution.of(flat),
            KnownValues.of(flat),
            OwnParts.fit(_scaled(features, mean, sd), rows_a_day, leader),
            np.full((len(MEASURES), len(names)), np.nan),
        )
        return replace(draft, limits=draft._limits(features))

    def measure(self, features: FloatArray) -> FloatArray:
        """(4, F): the measures of the last day of features (T, S, F), T of at least two days.

        In the order of MEASURES: PSI of the values; share of values that the reference has not, of a feature
        with few; and of each feature's own part (what nothing else of the market tells of it) how much it
        looks like a shift from the day's first row on, and the largest in one row. The last two in standard
        errors. NaN where a feature has no value; the last two also where no row has a symbol with all
        features. Raises DataError on other features or fewer rows.
        """
        rows = 2 * self.rows_a_day
        if features.ndim != 3 or features.shape[0] < rows or features.shape[2] != len(self.names):
            raise DataError(
                f"Features have shape {features.shape}: drift is measured on at least {rows} rows of "
                f"{len(self.names)} features."
            )
        last, day = features[-rows:], self.rows_a_day
        values = (self.values.psi(last[day:], day, 1), self.known.unseen(last[day:]))
        return np.concatenate([*values, *self._own(last, 1)])

    def to_bytes(self) -> bytes:
        """A NumPy archive, without pickles."""
        file = io.BytesIO()
        np.savez_compressed(
            file,
            names=np.array(self.names),
            counts=np.array([self.rows_a_day, self.n_days]),
            mean=self.mean,
            sd=self.sd,
            limits=self.limits,
            edges=self.values.edges,
            shares=self.values.shares,
            known=self.known.values,
            **self.own.to_arrays(),
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
            return cls(
                names=names,
                rows_a_day=rows_a_day,
                n_days=n_days,
                mean=arrays["mean"],
                sd=arrays["sd"],
                values=Distribution(arrays["edges"], arrays["shares"]),
                known=KnownValues(arrays["known"]),
                own=OwnParts.from_arrays(arrays, len(names), rows_a_day),
                limits=arrays["limits"],
            )
        except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as exc:
            raise DataError(f"The file is no reference of features: {exc}.") from exc

    def _limits(self, features: FloatArray) -> FloatArray:
        """(4, F), from the days of the features (T, S, F) that the rest was learned from."""
        psi, own_shift, own_jump = self._days(features)
        limits = np.full((len(MEASURES), len(self.names)), UNSEEN_SHARE)
        limits[MEASURES.index("psi")] = MARGIN * _quantile(psi, 1.0)
        for name, days in (("own_shift", own_shift), ("own_jump", own_jump)):
            smallest = SMALLEST_LIMITS[name]
            found = HOURLY_MARGIN * np.maximum(_quantile(days, 1.0 - OWN_ALARM_SHARE), smallest)
            # What takes few values is far out seldom and then always equally far: a weekend, when it begins.
            farthest = np.maximum(MARGIN * _quantile(days, 1.0), smallest)
            limits[MEASURES.index(name)] = np.where(self.known.few, farthest, found)
        return limits

    def _days(self, features: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(days, F) thrice: PSI and measures of the own part of days of features (T, S, F).

        Each against what the parts of the features teach that the day is not in.
        """
        stride = max(1, self.rows_a_day // STARTS_A_DAY)
        measured = []
        for rows in np.array_split(np.arange(len(features)), N_PARTS):
            others, part = np.delete(features, rows, axis=0), features[rows]
            scaled = _scaled(others, self.mean, self.sd)
            own = OwnParts.fit(scaled, self.rows_a_day, self.own.leader)
            values = Distribution.of(others.reshape(-1, features.shape[2]))
            psi = values.psi(part, self.rows_a_day, stride)
            measured.append((psi, *replace(self, own=own)._own(part, stride)))
        psis, shifts, jumps = (np.concatenate(days) for days in zip(*measured, strict=True))
        return psis, shifts, jumps

    def _own(self, features: FloatArray, stride: int) -> tuple[FloatArray, FloatArray]:
        """(windows, F) twice, of every day in features after the first that begins `stride` rows after the
        one before: how much the own part looks like a shift, and the largest of one row, in standard errors.
        """
        day = self.rows_a_day
        own, size = self.own.of(_scaled(features, self.mean, self.sd))
        weight = 1.0 / np.square(np.maximum(size, SMALLEST_SIZE_SD))
        own_known: BoolArray = np.isfinite(own)
        weight = np.where(own_known, weight, 0.0)
        # Symbols whose error is usually small tell the most.
        by_row = np.sum(weight * np.where(own_known, own, 0.0), axis=1)
        weights = np.sum(weight, axis=1)
        starts = slice(0, len(own) - day + 1, stride)
        # After the row in which a shift begins, its footprint is what the row before does not tell.
        share, first, of_first = self.own.footprint, by_row[starts], weights[starts]
        seen = first + share * (window_sums(by_row, day, stride) - first)
        information = of_first + np.square(share) * (window_sums(weights, day, stride) - of_first)
        with warnings.catch_warnings():
            # Of nothing there is no error and no largest.
            warnings.simplefilter("ignore", RuntimeWarning)
            shift = np.abs(seen / np.sqrt(information))
            rows = np.abs(by_row / np.sqrt(weights))
            jump = np.nanmax(sliding_window_view(rows, day, axis=0)[::stride], axis=2)
        return shift, jump


def _quantile(days: FloatArray, level: float) -> FloatArray:
    """(F,) of days (D, F): NaN left out, NaN where a feature has nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        found: FloatArray = np.nanquantile(days, level, axis=0)
    return found


def _scaled(features: FloatArray, mean: FloatArray, sd: FloatArray) -> FloatArray:
    # In C order, in which rows of features are multiplied as one matrix.
    scaled = np.subtract(features, mean, order="C")
    scaled /= sd
    return np.clip(scaled, -LONGEST_SD, LONGEST_SD, out=scaled)


def _check_shapes(arrays: Mapping[str, Any], n_features: int) -> None:
    each = (n_features,)
    for name, shape in {"mean": each, "sd": each, "limits": (len(MEASURES), n_features)}.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
