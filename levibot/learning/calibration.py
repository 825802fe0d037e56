"""From a score to a probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import FloatArray

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


def fit_platt(score: FloatArray, happened: npt.NDArray[np.bool_]) -> Platt:
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


def calibration_error(probability: FloatArray, happened: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error: how far the probabilities that were said lie from what happened.

    The mean over ten bins of equally many predictions of |mean probability - share that happened| (Naeini et
    al. 2015, with bins by rank). Never 0 in a finite sample: well-calibrated probabilities near one half give
    about 0.4 / sqrt(N / 10). probability: (N,) of predictions that the calibration was not fitted on.
    Raises DataError without predictions.
    """
    if len(probability) == 0:
        raise DataError("A calibration is judged on at least one prediction.")
    order = np.argsort(probability, kind="stable")
    gaps = [
        len(rows) * abs(float(probability[rows].mean()) - float(happened[rows].mean()))
        for rows in np.array_split(order, _BINS)
        if len(rows)
    ]
    return sum(gaps) / len(probability)
