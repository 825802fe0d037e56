"""Which rows of a feature history a prediction reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FloatArray

IndexArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Sequence:
    """`steps` rows of one symbol, `every_bars` apart; the newest is the row the prediction is made at."""

    steps: int = 1
    every_bars: int = 1

    @property
    def reach_bars(self) -> int:
        """How far the oldest row lies before the newest."""
        return (self.steps - 1) * self.every_bars

    @property
    def window_bars(self) -> int:
        """Rows of history that one prediction needs."""
        return self.reach_bars + 1


ONE_ROW = Sequence()


@dataclass(frozen=True, slots=True)
class Samples:
    """Points of a feature history.

    features: (T, S, F) of neighbouring bars, oldest first, NaN where unknown. row, column: (N,) where in it.
    """

    features: FloatArray
    row: IndexArray
    column: IndexArray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def n_features(self) -> int:
        return int(self.features.shape[-1])

    def newest(self) -> FloatArray:
        """(N, F): the features of each point itself."""
        rows: FloatArray = self.features[self.row, self.column]
        return rows

    def gather(self, sequence: Sequence) -> tuple[FloatArray, IndexArray]:
        """The distinct rows (U, F) that all points read, and (N, steps) which of them, oldest first.

        The last of the distinct rows is all NaN: it stands for whatever lies before the history begins.
        """
        n_symbols = self.features.shape[1]
        back = sequence.every_bars * np.arange(sequence.steps - 1, -1, -1)
        row = self.row[:, None] - back
        flat = row * n_symbols + self.column[:, None]
        is_known = row >= 0
        is_read = np.zeros(self.features.shape[0] * n_symbols, dtype=np.bool_)
        is_read[flat[is_known]] = True
        position = np.cumsum(is_read) - 1
        read = np.flatnonzero(is_read)
        values = np.full((len(read) + 1, self.n_features), np.nan)
        values[:-1] = self.features[read // n_symbols, read % n_symbols]
        index = np.full(flat.shape, len(read), dtype=np.intp)
        index[is_known] = position[flat[is_known]]
        return values, index

    def sequences(self, sequence: Sequence) -> FloatArray:
        """(N, steps, F), oldest first; NaN before the history begins."""
        values, index = self.gather(sequence)
        rows: FloatArray = values[index]
        return rows

    def check(self, n_features: int) -> None:
        """Raises DataError unless the history has the features a model was fitted on."""
        if self.features.ndim != 3 or self.n_features != n_features:
            raise DataError(
                f"Features have shape {self.features.shape}: this model reads (rows, symbols, {n_features})."
            )


def rows_as_samples(features: FloatArray) -> Samples:
    """(N, F) unrelated rows as points of a history of one row."""
    n_rows = len(features)
    return Samples(features[None], np.zeros(n_rows, dtype=np.intp), np.arange(n_rows))
