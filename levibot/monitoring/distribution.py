"""Population stability index (PSI) of values against a reference, over bins of the reference's quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from levibot.features.rolling import BoolArray
from levibot.market.bars import FloatArray

N_BINS = 10
# Half a value in each bin: an empty one has a logarithm too.
PRIOR = 0.5
# A feature of at most so many values takes these and no others.
FEW_VALUES = 32
# Values nearer to each other are the same: live and history differ in a last digit.
SAME = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """The share of reference values in each bin. One column a feature.

    edges: (F, N_BINS - 1), rising; of two that are equal the bin between them is empty. shares: (F, N_BINS).
    """

    edges: FloatArray
    shares: FloatArray

    @classmethod
    def of(cls, values: FloatArray) -> Self:
        """From values (N, F), NaN left out. A feature without a value has equal shares."""
        levels = np.arange(1, N_BINS) / N_BINS
        n_features = values.shape[1]
        edges = np.zeros((n_features, N_BINS - 1))
        shares = np.empty((n_features, N_BINS))
        for column in range(n_features):
            known = values[:, column]
            known = known[np.isfinite(known)]
            if len(known):
                edges[column] = np.quantile(known, levels)
            shares[column] = _shares(np.bincount(_bins(known, edges[column]), minlength=N_BINS)[None])[0]
        return cls(edges, shares)

    def psi(self, values: FloatArray, window_rows: int, stride: int) -> FloatArray:
        """(W, F): the PSI of each window of so many rows of values (T, S, F), `stride` rows after the last.

        NaN is left out; where a window has nothing else, its PSI is NaN. Sum over the bins of
        (q - p) · log(q / p), p the reference's share and q the window's (Siddiqi 2006).
        """
        n_rows, _, n_features = values.shape
        out = np.full((len(range(0, n_rows - window_rows + 1, stride)), n_features), np.nan)
        first_bin = N_BINS * np.arange(n_rows)[:, None]
        for column in range(n_features):
            of = values[:, :, column]
            # A value is in several windows, and is put into its bin once.
            bins = (_bins(of, self.edges[column]) + first_bin)[np.isfinite(of)]
            by_row = np.bincount(bins, minlength=N_BINS * n_rows).reshape(n_rows, N_BINS)
            counts = window_sums(by_row, window_rows, stride)
            found, expected = _shares(counts), self.shares[column]
            psi = np.sum((found - expected) * np.log(found / expected), axis=1)
            out[:, column] = np.where(counts.any(axis=1), psi, np.nan)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class KnownValues:
    """Which values the features take that take few, such as the share of four coins.

    values: (F, FEW_VALUES), rising, filled up with NaN; NaN alone where a feature takes more of them.
    """

    values: FloatArray

    @classmethod
    def of(cls, values: FloatArray) -> Self:
        """From values (N, F), NaN left out."""
        found = np.full((values.shape[1], FEW_VALUES), np.nan)
        for column in range(values.shape[1]):
            taken = np.unique(values[np.isfinite(values[:, column]), column])
            if len(taken) > 1:
                taken = taken[np.diff(taken, prepend=-np.inf) > SAME]
            if len(taken) <= FEW_VALUES:
                found[column, : len(taken)] = taken
        return cls(found)

    @property
    def few(self) -> BoolArray:
        """(F,): whether a feature takes few values."""
        return np.asarray(np.isfinite(self.values[:, 0]))

    def unseen(self, values: FloatArray) -> FloatArray:
        """(1, F): the share of values (T, S, F) that are none of these; 0 of a feature that takes many.

        NaN where a feature has no value.
        """
        out = np.full((1, values.shape[2]), np.nan)
        for column, taken in enumerate(self.values):
            known = values[:, :, column][np.isfinite(values[:, :, column])]
            if len(known):
                few = taken[np.isfinite(taken)]
                near = np.abs(known[:, None] - few) <= SAME
                out[0, column] = 1.0 - near.any(axis=1).mean() if len(few) else 0.0
        return out


def window_sums(
    rows: np.ndarray[tuple[int, ...], np.dtype[Any]], window_rows: int, stride: int
) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """Sums over `window_rows` rows each, the first from row 0 on, then `stride` rows later and so on."""
    sums = np.zeros((len(rows) + 1, *rows.shape[1:]), dtype=rows.dtype)
    np.cumsum(rows, axis=0, out=sums[1:])
    return np.asarray((sums[window_rows:] - sums[: len(sums) - window_rows])[::stride])


def _bins(values: FloatArray, edges: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    return np.searchsorted(edges, values, side="right")


def _shares(counts: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> FloatArray:
    padded = counts + PRIOR
    shares: FloatArray = padded / padded.sum(axis=1, keepdims=True)
    return shares
