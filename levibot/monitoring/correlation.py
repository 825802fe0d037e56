"""Features that say the same: correlations, clusters, and how much of each is in the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components

from levibot.errors import DataError
from levibot.market.bars import FloatArray

CLUSTERED = 0.95
# Beyond this the others hold all of a feature, as far as the arithmetic can tell.
LARGEST_INFLATION = 1e6
# Of a direction in which features do not vary, but for rounding.
SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Collinearity:
    """Features against each other. matrix: (F, F) Pearson; NaN for a feature that does not vary.

    clusters: groups in which each has a neighbour with |correlation| >= CLUSTERED, the largest first.
    inflation: (F,) variance inflation factor 1 / (1 - R²) of the regression on all others; infinite beyond
    LARGEST_INFLATION, NaN for a feature that does not vary.
    """

    names: tuple[str, ...]
    matrix: FloatArray
    clusters: tuple[tuple[str, ...], ...]
    inflation: FloatArray


def collinearity(features: FloatArray, names: tuple[str, ...]) -> Collinearity:
    """Of features (N, F); rows with a NaN are left out. Raises DataError when F + 2 rows are not left."""
    rows = features[np.isfinite(features).all(axis=1)]
    n_features = len(names)
    if len(rows) < n_features + 2:
        raise DataError(
            f"{len(rows)} rows have all of the {n_features} features; {n_features + 2} are needed to tell "
            "how these depend on each other."
        )
    varies = rows.std(axis=0) > 1e-12 * (1.0 + np.abs(rows.mean(axis=0)))
    matrix = np.full((n_features, n_features), np.nan)
    inner = np.corrcoef(rows[:, varies], rowvar=False).reshape(varies.sum(), varies.sum())
    matrix[np.ix_(varies, varies)] = inner
    inflation = np.full(n_features, np.nan)
    inflation[varies] = _inflation(inner)
    return Collinearity(names, matrix, _clusters(matrix, names), inflation)


def _inflation(matrix: FloatArray) -> FloatArray:
    """Diagonal of the inverse. What lies in a direction without variance is inflated without bound."""
    values, vectors = np.linalg.eigh(matrix)
    kept = np.maximum(values, SMALLEST_VARIANCE)
    diagonal = np.sum(np.square(vectors) / kept, axis=1)
    out: FloatArray = np.where(diagonal > LARGEST_INFLATION, np.inf, diagonal)
    return out


def _clusters(matrix: FloatArray, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    with np.errstate(invalid="ignore"):
        n_clusters, label = connected_components(np.abs(matrix) >= CLUSTERED, directed=False)
    groups = [
        tuple(name for name, own in zip(names, label, strict=True) if own == k) for k in range(n_clusters)
    ]
    return tuple(sorted((group for group in groups if len(group) > 1), key=lambda group: -len(group)))
