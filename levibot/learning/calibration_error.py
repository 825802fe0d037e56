"""How far probabilities are from what happened."""

from __future__ import annotations

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import BoolArray, FloatArray

N_BINS = 10


def expected_calibration_error(
    probability: FloatArray, happened: BoolArray, *, n_bins: int = N_BINS
) -> float:
    """Mean distance of a bin's mean probability from its share of outcomes (Naeini et al. 2015).

    probability: (N,) finite. happened: (N,). Bins hold equally many predictions, so that probabilities which
    lie close together, as those of returns do, are still told apart; equal ones share a bin. 0 is perfect.
    Raises DataError without rows.
    """
    if len(probability) == 0 or len(probability) != len(happened):
        raise DataError(f"{len(probability)} probabilities need as many outcomes, and at least one.")
    edges = np.unique(np.quantile(probability, np.arange(1, n_bins) / n_bins))
    of_row = np.searchsorted(edges, probability, side="left")
    count = np.bincount(of_row)
    gap = np.abs(np.bincount(of_row, probability) - np.bincount(of_row, happened.astype(np.float64)))
    return float(gap[count > 0].sum() / len(probability))
