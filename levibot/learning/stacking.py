"""From the members' opinions to one probability: a logistic meta-learner on out-of-fold opinions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from levibot.errors import DataError
from levibot.learning.calibration import Platt, calibration_error, log_loss
from levibot.market.bars import BoolArray, FloatArray

MIN_ROWS = 200
_MAX_STEPS = 100
_LOGISTIC = Platt(1.0, 0.0)


@dataclass(frozen=True, slots=True)
class StackingParameters:
    """ridge: penalty on half the squared coefficients of opinions of unit size, as a share of the rows.
    only_agreeing: no coefficient below zero: a member may be ignored, not turned around."""

    ridge: float = 0.01
    only_agreeing: bool = True


STACKING = StackingParameters()


@dataclass(frozen=True)
class Stacking:
    """probability = logistic(opinions @ coefficients + intercept).

    coefficients: (M,). rows: those it was fitted on. error, gain: of rows it was not fitted on, NaN without
    folds: expected calibration error, and log loss saved over the base rate, in nats a row.
    """

    members: tuple[str, ...]
    coefficients: FloatArray
    intercept: float
    rows: int
    error: float
    gain: float

    def probability(self, opinions: FloatArray) -> FloatArray:
        """Of opinions (..., M): (...,). A missing opinion adds nothing; without any the answer is NaN."""
        known = np.isfinite(opinions)
        score = np.where(known, opinions, 0.0) @ self.coefficients + self.intercept
        probability: FloatArray = np.where(known.any(axis=-1), _LOGISTIC.probability(score), np.nan)
        return probability

    def to_json(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "coefficients": self.coefficients.tolist(),
            "intercept": self.intercept,
            "rows": self.rows,
            "error": None if np.isnan(self.error) else self.error,
            "gain": None if np.isnan(self.gain) else self.gain,
        }


def fit_stacking(
    members: Sequence[str],
    opinions: FloatArray,
    happened: BoolArray,
    *,
    folds: Sequence[tuple[BoolArray, BoolArray]] = (),
    parameters: StackingParameters = STACKING,
) -> Stacking:
    """Ridge-penalised logistic regression of outcomes on opinions; deterministic.

    opinions: (N, M), each of a model that was not fitted on that row; NaN = missing. happened: (N,). folds:
    pairs of (teach, judge) masks (N,), purged by the reach of the outcomes (`purged_folds`): they give the
    calibration error and the gain, not the coefficients. The intercept is not penalised.
    Raises DataError with fewer than 200 rows, other shapes or infinite opinions.
    """
    n_members = len(members)
    if opinions.shape != (len(happened), n_members) or np.isinf(opinions).any():
        raise DataError(f"Opinions {opinions.shape} must be ({len(happened)}, {n_members}), none infinite.")
    if len(happened) < MIN_ROWS:
        raise DataError(f"{len(happened)} rows are too few for a meta-learner: {MIN_ROWS} are needed.")
    known = np.where(np.isfinite(opinions), opinions, 0.0)
    beta = _fit(known, happened, parameters)
    error, gain = float("nan"), float("nan")
    if folds:
        judged, expected, base = [], [], []
        for teach, judge in folds:
            of_fold = _fit(known[teach], happened[teach], parameters)
            judged.append(happened[judge])
            expected.append(_LOGISTIC.probability(known[judge] @ of_fold[:-1] + of_fold[-1]))
            base.append(np.full(int(judge.sum()), _rate(happened[teach])))
        outcome, probability = np.concatenate(judged), np.concatenate(expected)
        error = calibration_error(probability, outcome)
        gain = log_loss(np.concatenate(base), outcome) - log_loss(probability, outcome)
    return Stacking(tuple(members), beta[:-1], float(beta[-1]), len(happened), error, gain)


def _fit(opinions: FloatArray, happened: BoolArray, parameters: StackingParameters) -> FloatArray:
    """(M + 1,) coefficients, the intercept last."""
    n_members = opinions.shape[1]
    size = np.sqrt(np.mean(np.square(opinions), axis=0))
    free = size > 0.0
    beta = np.zeros(n_members + 1)
    while True:
        # A coefficient that must not be negative and would be is left out, and the others are fitted again.
        beta[:] = 0.0
        columns = np.append(free, True)
        design = np.column_stack([opinions / np.where(size > 0.0, size, 1.0), np.ones(len(opinions))])
        beta[columns] = _newton(design[:, columns], happened, parameters.ridge)
        negative = (beta[:-1] < 0.0) & free
        if not parameters.only_agreeing or not negative.any():
            break
        free = free & ~negative
    beta[:-1] /= np.where(size > 0.0, size, 1.0)
    return beta


def _newton(design: FloatArray, happened: BoolArray, ridge: float) -> FloatArray:
    penalty = np.full(design.shape[1], ridge * len(design))
    penalty[-1] = 0.0
    rate = _rate(happened)
    beta = np.zeros(design.shape[1])
    beta[-1] = np.log(rate / (1.0 - rate))
    for _ in range(_MAX_STEPS):
        fitted = _LOGISTIC.probability(design @ beta)
        curvature = (design * (fitted * (1.0 - fitted))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curvature, design.T @ (happened - fitted) - penalty * beta)
        # Half-way at most: outcomes of one class would send the intercept off otherwise.
        beta += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if float(np.abs(step).max()) < 1e-9:
            break
    return beta


def _rate(happened: BoolArray) -> float:
    """Laplace's: never 0 or 1."""
    return (float(happened.sum()) + 1.0) / (len(happened) + 2.0)
