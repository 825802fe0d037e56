"""From a score to a probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """What was said against what happened, in bins of equally many predictions, the lowest first.

    said, happened: (B,) mean probability and share that happened. count: (B,) predictions. error: expected
    calibration error, see `calibration_error`. gain: log loss saved over always saying the share that
    happened in all, in nats a prediction; above 0 where the probabilities tell something.
    """

    said: FloatArray
    happened: FloatArray
    count: FloatArray
    error: float
    gain: float

    def to_json(self) -> dict[str, Any]:
        return {
            "error": self.error,
            "gain": self.gain,
            "predictions": int(self.count.sum()),
            "bins": [
                {"said": said, "happened": happened, "predictions": int(count)}
                for said, happened, count in zip(
                    self.said.tolist(), self.happened.tolist(), self.count.tolist(), strict=True
                )
            ],
        }


def reliability(probability: FloatArray, happened: BoolArray) -> Reliability:
    """Ten bins of what was said. Arguments and errors as of `calibration_error`."""
    of_row = _bins(probability, happened)
    count = np.bincount(of_row).astype(np.float64)
    there = count > 0.0
    sums = [np.bincount(of_row, values) for values in (probability, happened.astype(np.float64))]
    said, came = (total[there] / count[there] for total in sums)
    rate = np.full(len(happened), float(np.mean(happened)))
    gain = log_loss(rate, happened) - log_loss(probability, happened)
    return Reliability(said, came, count[there], calibration_error(probability, happened), gain)


def log_loss(probability: FloatArray, happened: BoolArray) -> float:
    """Mean of minus the logarithm of what was said of the outcome, in nats. (N,) each."""
    inside = np.clip(probability, 1e-12, 1.0 - 1e-12)
    return float(-np.mean(np.where(happened, np.log(inside), np.log1p(-inside))))


def calibration_error(probability: FloatArray, happened: BoolArray) -> float:
    """Expected calibration error: how far the probabilities that were said lie from what happened.

    The mean over ten bins of |mean probability - share that happened| (Naeini et al. 2015). The bins hold
    equally many predictions, so that probabilities which lie close together, as those of returns do, are
    still told apart; equal ones share a bin. Never 0 in a finite sample: well-calibrated probabilities near
    one half give about 0.4 / sqrt(N / 10). probability: (N,) finite, of predictions that the calibration was
    not fitted on. happened: (N,). Raises DataError without predictions or with another number of outcomes.
    """
    of_row = _bins(probability, happened)
    gaps = np.abs(np.bincount(of_row, probability) - np.bincount(of_row, happened.astype(np.float64)))
    return float(gaps.sum() / len(probability))


def _bins(probability: FloatArray, happened: BoolArray) -> npt.NDArray[np.intp]:
    if len(probability) == 0 or len(probability) != len(happened):
        raise DataError(f"{len(probability)} probabilities need as many outcomes, and at least one.")
    edges = np.unique(np.quantile(probability, np.arange(1, _BINS) / _BINS))
    return np.searchsorted(edges, probability, side="left")
