"""Features on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from levibot.market.bars import FloatArray


@dataclass(frozen=True, slots=True)
class Standardisation:
    """(feature - mean) / its standard deviation, clipped; what is missing becomes 0, the mean.

    mean, inverse_scale: (F,). inverse_scale is 0 for a feature that did not vary, which then says nothing.
    """

    mean: FloatArray
    inverse_scale: FloatArray
    clip: float

    @classmethod
    def fit(cls, features: FloatArray, clip: float) -> Self:
        """From the finite values of (N, F)."""
        known = np.isfinite(features)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, features, 0.0).sum(axis=0) / count
        variance = np.square(np.where(known, features - mean, 0.0)).sum(axis=0) / count
        # Rounding alone gives a constant some spread.
        varies = np.sqrt(variance) > 1e-9 * np.maximum(np.abs(mean), 1e-3)
        inverse = np.divide(1.0, np.sqrt(variance), out=np.zeros_like(mean), where=varies)
        return cls(mean, inverse, clip)

    def apply(self, features: FloatArray) -> FloatArray:
        """(..., F) of any shape; finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (features - self.mean) * self.inverse_scale
        scaled[np.isnan(scaled)] = 0.0
        return np.clip(scaled, -self.clip, self.clip)
