"""Bull, sideways or bear: a hidden Markov model of the market's days, read forwards only.

Three states, each a Gaussian of a day's observations, fitted inside a training window (Baum et al. 1970) and
from then on only filtered: the probabilities of a day come from that day and those before it, and no later
day revises them. The smoothed states of the textbook are used for the fit and never leave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from levibot.errors import DataError, RegistryError
from levibot.features.compiled import compiled
from levibot.market.bars import BoolArray, FloatArray

# In the order of the columns: by the mean of the first observation, lowest first.
REGIMES = ("bear", "sideways", "bull")
N_REGIMES = len(REGIMES)
MIN_DAYS = 180
_TOLERANCE = 1e-7


@dataclass(frozen=True, slots=True)
class RegimeParameters:
    """expected_days: how long a regime lasts before the data speak. stay_days: days that this belief counts
    as in each state. spread_days: days that the spread of all days counts as in each state's covariance; it
    keeps a state from shrinking onto a few days. max_steps: of expectation-maximisation."""

    expected_days: float = 45.0
    stay_days: float = 180.0
    spread_days: float = 20.0
    max_steps: int = 200


REGIME = RegimeParameters()


@dataclass(frozen=True)
class RegimeModel:
    """A fitted filter. Frozen; its state is a vector of three probabilities.

    mean: (3, K). covariance: (3, K, K). transition: (3, 3), row = today. start: (3,) before the first day.
    """

    mean: FloatArray
    covariance: FloatArray
    transition: FloatArray
    start: FloatArray

    def filtered(self, observations: FloatArray, state: FloatArray | None = None) -> FloatArray:
        """(D, 3) probabilities of `REGIMES`, each row from its own day and the days before it.

        observations: (D, K), one row a finished day, oldest first; a row that is not all finite says nothing,
        and the probabilities then only drift towards what is usual. state: (3,) the last row returned for the
        days before, None at the beginning. Row d is known when day d is over; it may be used from the next
        day on. Raises DataError on another shape.
        """
        _check(observations, self.mean.shape[1])
        before = self.start if state is None else self.transition.T @ np.asarray(state, np.float64)
        if before.shape != (N_REGIMES,):
            raise DataError(f"The state has shape {before.shape}: it must be ({N_REGIMES},).")
        filtered, _ = _forward(
            _log_density(observations, self.mean, self.covariance), before, self.transition
        )
        return filtered

    def to_json(self) -> dict[str, Any]:
        return {
            "regimes": list(REGIMES),
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
            "transition": self.transition.tolist(),
            "start": self.start.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same model again. Raises RegistryError on anything else."""
        try:
            mean, covariance, transition, start = (
                np.asarray(values[name], dtype=np.float64)
                for name in ("mean", "covariance", "transition", "start")
            )
            n_observed = mean.shape[1]
        except (KeyError, TypeError, ValueError, IndexError) as exc:
            raise RegistryError(f"These are not the numbers of a regime model: {exc!r}.") from exc
        shapes = (mean.shape, covariance.shape, transition.shape, start.shape)
        wanted = (
            (N_REGIMES, n_observed),
            (N_REGIMES, n_observed, n_observed),
            (N_REGIMES, N_REGIMES),
            (N_REGIMES,),
        )
        finite = all(np.isfinite(a).all() for a in (mean, covariance, transition, start))
        if list(values.get("regimes", ())) != list(REGIMES) or shapes != wanted or not finite:
            raise RegistryError(f"A regime model of the shapes {shapes} must have {wanted}, all finite.")
        return cls(mean, covariance, transition, start)


def fit_regimes(observations: FloatArray, *, parameters: RegimeParameters = REGIME) -> RegimeModel:
    """Fit on the days of a training window; deterministic.

    observations: (D, K) finished days, oldest first; column 0 is what orders the states, larger is more of a
    bull market. Rows that are not all finite are days without an observation.
    Raises DataError with fewer than 180 observed days, or where an observation never varies.
    """
    _check(observations, None)
    seen = _seen(observations)
    if int(seen.sum()) < MIN_DAYS:
        raise DataError(f"{int(seen.sum())} observed days are too few for regimes: {MIN_DAYS} are needed.")
    # In units of its own spread while fitting: the steps then have one scale.
    centre, scale = observations[seen].mean(axis=0), observations[seen].std(axis=0)
    if not (scale > 1e-12).all():
        raise DataError("An observation that never varies tells no regime from another.")
    scaled = (observations - centre) / scale
    mean, covariance, transition, start = _begin(scaled, seen, parameters)
    belief = _belief(parameters)
    before = -np.inf
    for _ in range(parameters.max_steps):
        log_density = _log_density(scaled, mean, covariance)
        filtered, log_likelihood = _forward(log_density, start, transition)
        smoothed, moves = _backward(log_density, filtered, transition)
        share = smoothed * seen[:, None]
        mean, covariance = _moments(scaled, share, parameters.spread_days)
        counts = moves + belief
        transition = counts / counts.sum(axis=1, keepdims=True)
        start = smoothed[0]
        if abs(log_likelihood - before) < _TOLERANCE * len(scaled):
            break
        before = log_likelihood
    order = np.argsort(mean[:, 0], kind="stable")
    return RegimeModel(
        mean[order] * scale + centre,
        covariance[order] * np.outer(scale, scale),
        transition[np.ix_(order, order)],
        start[order],
    )


def walk_forward_regimes(
    observations: FloatArray, fits: Sequence[int], *, parameters: RegimeParameters = REGIME
) -> FloatArray:
    """(D, 3) filtered probabilities, each stretch by a model that was fitted on the days before it.

    fits: increasing rows; the model made before row fits[k] reads rows [0, fits[k]) and filters the rows from
    fits[k] to the next fit, beginning with its own filter of the days before. NaN before the first fit. A
    longer history changes no earlier row. Raises DataError when a fit has too few days.
    """
    told = np.full((len(observations), N_REGIMES), np.nan)
    for begin, end in pairwise([*fits, len(observations)]):
        if begin < end:
            model = fit_regimes(observations[:begin], parameters=parameters)
            told[begin:end] = model.filtered(observations[:end])[begin:]
    return told


def _check(observations: FloatArray, n_observed: int | None) -> None:
    if observations.ndim != 2 or (n_observed is not None and observations.shape[1] != n_observed):
        wanted = "K" if n_observed is None else str(n_observed)
        raise DataError(f"Observations have shape {observations.shape}: they must be (days, {wanted}).")


def _seen(observations: FloatArray) -> BoolArray:
    return np.asarray(np.isfinite(observations).all(axis=1))


def _belief(parameters: RegimeParameters) -> FloatArray:
    """Moves that are taken as seen before the data: mostly none."""
    leave = 1.0 / parameters.expected_days
    share = np.full((N_REGIMES, N_REGIMES), leave / (N_REGIMES - 1))
    np.fill_diagonal(share, 1.0 - leave)
    return parameters.stay_days * share


def _begin(
    scaled: FloatArray, seen: BoolArray, parameters: RegimeParameters
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Thirds of the days by their first observation."""
    cuts = np.quantile(scaled[seen, 0], np.arange(1, N_REGIMES) / N_REGIMES)
    share = np.zeros((len(scaled), N_REGIMES))
    share[np.flatnonzero(seen), np.searchsorted(cuts, scaled[seen, 0])] = 1.0
    mean, covariance = _moments(scaled, share, parameters.spread_days)
    belief = _belief(parameters)
    transition = belief / belief.sum(axis=1, keepdims=True)
    return mean, covariance, transition, np.full(N_REGIMES, 1.0 / N_REGIMES)


def _moments(scaled: FloatArray, share: FloatArray, spread_days: float) -> tuple[FloatArray, FloatArray]:
    """Means and covariances of the days that belong to each state; the spread of all days is the identity."""
    days = np.where(_seen(scaled)[:, None], scaled, 0.0)
    weight = np.maximum(share.sum(axis=0), 1e-9)
    mean = share.T @ days / weight[:, None]
    away = days[None] - mean[:, None, :]
    spread = np.einsum("dk,kdi,kdj->kij", share, away, away) + spread_days * np.eye(days.shape[1])
    return mean, spread / (weight + spread_days)[:, None, None]


def _log_density(observations: FloatArray, mean: FloatArray, covariance: FloatArray) -> FloatArray:
    """(D, 3) Gaussian log densities; 0 in every state for a day without an observation."""
    away = observations[None] - mean[:, None, :]
    solved = np.linalg.solve(covariance[:, None], away[..., None])[..., 0]
    _, log_volume = np.linalg.slogdet(covariance)
    density = -0.5 * ((away * solved).sum(axis=2) + log_volume[:, None]).T
    seen = _seen(observations)
    return np.where(seen[:, None], density, 0.0)


@compiled
def _forward(log_density: FloatArray, start: FloatArray, transition: FloatArray) -> tuple[FloatArray, float]:
    """Filtered probabilities (D, 3), and the log likelihood of all days."""
    n_days, n = log_density.shape
    filtered = np.empty((n_days, n))
    log_likelihood = 0.0
    expected = start.copy()
    for d in range(n_days):
        highest = log_density[d].max()
        total = 0.0
        for k in range(n):
            filtered[d, k] = expected[k] * np.exp(log_density[d, k] - highest)
            total += filtered[d, k]
        # A day no state can explain leaves what was expected as it is.
        for k in range(n):
            filtered[d, k] = filtered[d, k] / total if total > 0.0 else expected[k]
        log_likelihood += highest + np.log(total) if total > 0.0 else highest
        for j in range(n):
            expected[j] = 0.0
            for k in range(n):
                expected[j] += filtered[d, k] * transition[k, j]
    return filtered, log_likelihood


@compiled
def _backward(
    log_density: FloatArray, filtered: FloatArray, transition: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Smoothed probabilities (D, 3) and expected moves (3, 3): for the fit only (Kim 1994)."""
    n_days, n = log_density.shape
    smoothed = filtered.copy()
    moves = np.zeros((n, n))
    for d in range(n_days - 2, -1, -1):
        ratio = np.zeros(n)
        for j in range(n):
            expected = 0.0
            for k in range(n):
                expected += filtered[d, k] * transition[k, j]
            ratio[j] = smoothed[d + 1, j] / expected if expected > 0.0 else 0.0
        for k in range(n):
            total = 0.0
            for j in range(n):
                move = filtered[d, k] * transition[k, j] * ratio[j]
                moves[k, j] += move
                total += move
            smoothed[d, k] = total
    return smoothed, moves
