"""From a score to a probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import BoolArray, FloatArray

# Bins of equally many predictions in which what was said is held against what happened.
_BINS = 10

_RIDGE = 1e-3
_MAX_STEPS = 50


@dataclass(frozen=True, slots=True)
class Platt:
    """probability = 1 / (1 + exp(-(slope * score + intercept))) (Platt 1999)."""

    slope: float
    intercept: float

    def probability(self, score: FloatArray) -> FloatArray:
        """Of any shape; NaN stays NaN."""
        logit = np.clip(self.slope * score + self.intercept, -50.0, 50.0)
        return 1.0 / (1.0 + np.exp(-logit))


def fit_platt(score: FloatArray, happened: BoolArray) -> Platt:
    """Logistic regression of outcomes on scores of predictions the model was not fitted on.

    score: (N,) finite. happened: (N,). The slope is never negative: scores that were wrong out of sample end
    at the base rate, not turned around. Raises DataError without rows.
    """
    if len(score) == 0:
        raise DataError("A calibration needs at least one prediction.")
    # Platt's smoothed targets keep a sample of one class away from 0 and 1.
    n_up = int(happened.sum())
    wanted = np.where(happened, (n_up + 1.0) / (n_up + 2.0), 1.0 / (len(score) - n_up + 2.0))
    rate = float(wanted.mean())
    base = Platt(0.0, float(np.log(rate / (1.0 - rate))))
    spread = float(np.std(score))
    if spread == 0.0:
        return base
    design = np.column_stack([score / spread, np.ones_like(score)])
    beta = np.array([0.0, base.intercept])
    for _ in range(_MAX_STEPS):
        fitted = Platt(1.0, 0.0).probability(design @ beta)
        curvature = (design * (fitted * (1.0 - fitted))[:, None]).T @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (wanted - fitted) - _RIDGE * beta)
        beta = beta + step
        if float(np.abs(step).max()) < 1e-10:
            break
    slope = float(beta[0]) / spread
    return Platt(slope, float(beta[1])) if slope > 0.0 else base


def calibration_error(probability: FloatArray, happened: BoolArray) -> float:
    """Expected calibration error: how far the probabilities that were said lie from what happened.

    The mean over ten bins of |mean probability - share that happened| (Naeini et al. 2015). The bins hold
    equally many predictions, so that probabilities which lie close together, as those of returns do, are
    still told apart; equal ones share a bin. Never 0 in a finite sample: well-calibrated probabilities near
    one half give about 0.4 / sqrt(N / 10). probability: (N,) finite, of predictions that the calibration was
    not fitted on. happened: (N,). Raises DataError without predictions or with another number of outcomes.
    """
    if len(probability) == 0 or len(probability) != len(happened):
        raise DataError(f"{len(probability)} probabilities need as many outcomes, and at least one.")
    edges = np.unique(np.quantile(probability, np.arange(1, _BINS) / _BINS))
    of_row = np.searchsorted(edges, probability, side="left")
    gaps = np.abs(np.bincount(of_row, probability) - np.bincount(of_row, happened.astype(np.float64)))
    return float(gaps.sum() / len(probability))
