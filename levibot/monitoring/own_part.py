"""The own part of a feature: what nothing else of the market tells of it, and how surprising that is.

A market that moves moves its features together. What a feature does alone is small beside that, but not
always equally small: a largest return follows from the rest of the market until the hour in which it leaves
its window. So two things are learned of every feature by ridge regression: its value, and its error's size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from levibot.errors import DataError
from levibot.features.rolling import BoolArray
from levibot.market.bars import FloatArray

# What explains, each a block of all features: value, size, sign, square and step from the row before; the
# leader's value; the means over the symbols of value, sign, size and step; and of the past the value and the
# size a row and a day before. Of the first N_NOW blocks a feature's own column never explains that feature:
# a shift of it would be in there too.
N_NOW = 10
N_BLOCKS = N_NOW + 4
ROW_BEFORE = N_NOW
RIDGE = 1e-3
# Enough rows for the regression, in multiples of its variables and at least.
ROWS_A_VARIABLE, MIN_ROWS = 20, 60_000
CHUNK_ROWS = 1_000
LARGEST_SQUARE = 16.0
# Steps and errors near zero have a logarithm too.
SMALL_STEP, SMALL_ERROR = 0.03, 0.01


@dataclass(frozen=True, slots=True, eq=False)
class OwnParts:
    """How the own part of F features and its size follow from the B = N_BLOCKS · F explaining variables.

    Everything is of scaled features: in standard deviations. leader: column of the symbol that explains the
    others. value: (B, F), value_base: (F,); size: (B, F), size_base: (F,), of the logarithm of the error.
    step_unit: (F,), a feature's usual step from row to row.
    """

    leader: int
    rows_a_day: int
    value: FloatArray
    value_base: FloatArray
    size: FloatArray
    size_base: FloatArray
    step_unit: FloatArray

    @classmethod
    def fit(cls, scaled: FloatArray, rows_a_day: int, leader: int) -> Self:
        """From scaled features (T, S, F), NaN where one is not known: such rows are left out.

        Raises DataError when no row has a symbol and the leader with all features, and a day before too.
        """
        n_features = scaled.shape[2]
        n_variables = N_BLOCKS * n_features
        steps = np.abs(np.diff(scaled, axis=0))
        unit = np.array([_mean(steps[:, :, column]) for column in range(n_features)]) + 1e-9
        blank = np.zeros((n_variables, n_features))
        draft = cls(leader, rows_a_day, blank, blank[0], blank, blank[0], unit)
        wanted = max(MIN_ROWS, ROWS_A_VARIABLE * n_variables)
        every = max(1, scaled.shape[0] * scaled.shape[1] // wanted)
        mean, covariance = _moments(draft._known(scaled, every), n_variables)
        covariance[np.diag_indices(n_variables)] += RIDGE
        precision: FloatArray = np.asarray(np.linalg.inv(covariance), np.float64)
        own_now = [np.arange(block * n_features, N_NOW * n_features, n_features) for block in (0, 1)]
        value = np.zeros_like(blank)
        for column in range(n_features):
            # The error of a regression is a row of the inverse covariance over its diagonal.
            row = _without(precision, precision[column], own_now[1] + column)
            value[:, column] = row / row[column]
        draft = cls(leader, rows_a_day, value, -mean @ value, blank, blank[0], unit)
        # The error's logarithm, on the same variables but the feature's own now.
        cross, base, n_rows = np.zeros_like(blank), np.zeros(n_features), 0
        for known in draft._known(scaled, every):
            target = np.log(np.abs(known @ value + draft.value_base) + SMALL_ERROR)
            cross += (known - mean).T @ target
            base += target.sum(axis=0)
            n_rows += len(known)
        size = precision @ (cross / n_rows)
        for column in range(n_features):
            size[:, column] = _without(precision, size[:, column], own_now[0] + column)
        return cls(leader, rows_a_day, value, draft.value_base, size, base / n_rows - mean @ size, unit)

    @property
    def footprint(self) -> FloatArray:
        """(F,): the share of a shift that is left in the own part of each row after the shift's first."""
        n_features = len(self.value_base)
        before = self.value[ROW_BEFORE * n_features : (ROW_BEFORE + 1) * n_features]
        share: FloatArray = 1.0 + np.diagonal(before)
        return share

    def of(self, scaled: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(T - W, S, F) twice: own parts of scaled features (T, S, F) after their first day, and their sizes.

        The size is that of a usual error: its geometric mean. NaN in a symbol's row in which any of its
        features or the leader's is not known, now or a row or a day before.
        """
        n_rows = max(0, len(scaled) - self.rows_a_day)
        own = np.empty((n_rows, *scaled.shape[1:]))
        size = np.empty_like(own)
        for first, blocks in self._chunks(scaled):
            rows = slice(first, first + len(blocks))
            own[rows] = _times(blocks, self.value) + self.value_base
            size[rows] = np.exp(_times(blocks, self.size) + self.size_base)
        return own, size

    def to_arrays(self) -> dict[str, Any]:
        """By the names of the fields; `from_arrays` reads them."""
        return {name: getattr(self, name) for name in _shapes(0)} | {"leader": np.array(self.leader)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], n_features: int, rows_a_day: int) -> Self:
        """Raises KeyError and ValueError on other arrays than those of so many features."""
        fields: dict[str, Any] = {}
        for name, shape in _shapes(n_features).items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
            fields[name] = arrays[name]
        return cls(leader=int(arrays["leader"]), rows_a_day=rows_a_day, **fields)

    def _known(self, scaled: FloatArray, every: int) -> Iterator[FloatArray]:
        """The explaining variables (N, B) of every so many of the rows in which all of them are known."""
        offset = 0
        for _, blocks in self._chunks(scaled):
            flat = blocks.reshape(-1, blocks.shape[2])
            picked = flat[offset::every]
            offset = (offset - len(flat)) % every
            known: BoolArray = np.asarray(np.isfinite(picked).all(axis=1))
            yield picked[known]

    def _chunks(self, scaled: FloatArray) -> Iterator[tuple[int, FloatArray]]:
        """First row and explaining variables (CHUNK_ROWS or fewer, S, B), after the first day."""
        day = self.rows_a_day
        for first in range(0, len(scaled) - day, CHUNK_ROWS):
            yield first, self._blocks(scaled[first : first + CHUNK_ROWS + day])

    def _blocks(self, scaled: FloatArray) -> FloatArray:
        """(T - W, S, B) of scaled features (T, S, F)."""
        day = self.rows_a_day
        now, before = scaled[day:], scaled[day - 1 : -1]
        size, sign = np.abs(now), np.sign(now)
        step = np.log(np.abs(now - before) / self.step_unit + SMALL_STEP)
        day_before = scaled[:-day]
        n_symbols = scaled.shape[1]
        with warnings.catch_warnings():
            # In a row without bars nothing has a mean.
            warnings.simplefilter("ignore", RuntimeWarning)
            means = [np.nanmean(of, axis=1, keepdims=True) for of in (now, sign, size, step)]
        shared = [np.repeat(of, n_symbols, axis=1) for of in (now[:, [self.leader]], *means)]
        alone = (now, size, sign, np.minimum(np.square(now), LARGEST_SQUARE), step)
        past = (before, day_before, np.abs(before), np.abs(day_before))
        return np.concatenate([*alone, *shared, *past], axis=2)


def _shapes(n_features: int) -> dict[str, tuple[int, ...]]:
    each, all_of_each = (n_features,), (N_BLOCKS * n_features, n_features)
    return {
        "value": all_of_each,
        "value_base": each,
        "size": all_of_each,
        "size_base": each,
        "step_unit": each,
    }


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _moments(chunks: Iterator[FloatArray], n_variables: int) -> tuple[FloatArray, FloatArray]:
    """Mean (B,) and covariance (B, B) of rows (N, B) that come in pieces. DataError on none."""
    total, squares, n_rows = np.zeros(n_variables), np.zeros((n_variables, n_variables)), 0
    for rows in chunks:
        # Half as long in single precision; the ridge is far above its error.
        single = rows.astype(np.float32)
        squares += single.T @ single
        total += rows.sum(axis=0)
        n_rows += len(rows)
    if not n_rows:
        raise DataError("No two rows a day apart have all features of a symbol and of the leader.")
    mean = total / n_rows
    return mean, squares / n_rows - np.outer(mean, mean)


def _without(precision: FloatArray, solution: FloatArray, columns: Any) -> FloatArray:
    """A solution of the regression with these variables left out, from the one with all of them."""
    among = precision[np.ix_(columns, columns)]
    rest: FloatArray = solution - np.linalg.solve(among, solution[columns]) @ precision[columns]
    rest[columns] = 0.0
    return rest


def _times(rows: FloatArray, factors: FloatArray) -> FloatArray:
    """(T, S, F) of rows (T, S, B) and factors (B, F)."""
    return (rows.reshape(-1, rows.shape[2]) @ factors).reshape(*rows.shape[:2], -1)
