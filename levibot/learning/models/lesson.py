"""What a model is fitted on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.learning.models.sequence import Samples
from levibot.market.bars import FloatArray

# Fewer rows than this teach nothing but noise.
FEWEST_ROWS = 200


@dataclass(frozen=True, slots=True)
class Lesson:
    """Points of a history, each with its labels.

    labels: (N, H) of the same H horizons at every point, finite. reach_bars: the label of row t may reach to
    row t + reach_bars, embargo included; a fit that holds rows back to judge itself purges by it. weights:
    (N,) > 0, what each point counts; all the same where left out.
    """

    samples: Samples
    labels: FloatArray
    reach_bars: int
    weights: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def among(self, rows: npt.NDArray[np.bool_]) -> Lesson:
        """The points whose row is marked. rows: (T,)."""
        return self.where(rows[self.samples.row])

    def where(self, kept: npt.NDArray[np.bool_]) -> Lesson:
        """The points that are marked. kept: (N,)."""
        samples = self.samples
        fewer = Samples(samples.features, samples.row[kept], samples.column[kept])
        weights = None if self.weights is None else self.weights[kept]
        return replace(self, samples=fewer, labels=self.labels[kept], weights=weights)

    def label_means(self) -> FloatArray:
        """(H,) mean of the labels: the market's drift, which is not something the features know."""
        return np.array(
            [
                np.ascontiguousarray(label).mean()
                if self.weights is None
                else np.average(np.ascontiguousarray(label), weights=self.weights)
                for label in self.labels.T
            ]
        )

    def centred(self) -> Lesson:
        """The same with the mean of each label taken off; left in, it would become a position."""
        return replace(self, labels=self.labels - self.label_means())

    def check(self) -> None:
        """Raises DataError where a fit could not be trusted: shapes, labels that are not finite, few rows."""
        if self.labels.ndim != 2 or len(self.labels) != len(self) or not np.isfinite(self.labels).all():
            raise DataError(
                f"{len(self)} points of features need as many rows of finite labels; "
                f"these have shape {self.labels.shape}."
            )
        if self.weights is not None and (len(self.weights) != len(self) or not (self.weights > 0.0).all()):
            raise DataError(f"{len(self)} points need as many weights, each above 0.")
        self.samples.check(self.samples.n_features)
        if len(self) < FEWEST_ROWS:
            raise DataError(f"{len(self)} rows are too few to fit a regressor: {FEWEST_ROWS} are needed.")

    def only_label(self) -> FloatArray:
        """(N,) the label of the one horizon. Raises DataError where there are several."""
        if self.labels.shape[1] != 1:
            raise DataError(
                f"The lesson has {self.labels.shape[1]} horizons: this kind of model learns one at a time."
            )
        return np.ascontiguousarray(self.labels[:, 0])
