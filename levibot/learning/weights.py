"""Weights that follow what the members earn: a small step a day, by regime, never far without evidence.

Each finished day every member's shadow return is compared with that of the prior blend, both in units of
volatility. The mean of these gains, exponentially weighted, overall and by regime, is an estimate of how much
better a member's Sharpe ratio is; it is shrunk by its own standard error, and

    target weight  ~  prior weight * exp(tilt * believed gain in annual Sharpe ratio)

The weights then move towards the target, by at most a bounded share a day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Self

import numpy as np

from levibot.errors import DataError, RegistryError
from levibot.learning.members import checked_weights, given_to_present
from levibot.learning.regime import N_REGIMES
from levibot.market.bars import BoolArray, FloatArray, TimeArray

_DAYS_PER_YEAR = 365.0
# Days a member is watched before its volatility, and so its gain, means anything.
WATCHED_DAYS = 20.0
# No day counts for more than so many standard deviations.
_CLIP = 4.0


@dataclass(frozen=True, slots=True)
class WeightParameters:
    """How weights follow gains.

    half_life_days: of the mean over all days, and of each regime's over its own days: a regime that is away
    forgets nothing. regime_days: days a regime must have been seen for its own mean to count as much as the
    overall one. sharpe_spread: standard deviation of the members' true annual Sharpe ratios about each other,
    as believed beforehand; a gain is believed by sharpe_spread^2 / (sharpe_spread^2 + its variance). tilt: of
    the log weight per unit of believed gain. max_turnover: largest share of all weight that moves a day.
    """

    half_life_days: float = 90.0
    regime_days: float = 180.0
    sharpe_spread: float = 0.25
    tilt: float = 1.0
    max_turnover: float = 0.02


WEIGHTS = WeightParameters()


@dataclass(frozen=True)
class WeightState:
    """What is known of the members after day `as_of`; frozen, of a fixed size. An update makes a new one.

    prior, weights: (M,) on the simplex; weights are to be held on the days after `as_of`. gain: (4, M)
    exponentially weighted sums of daily gains, in `REGIMES` and, last, over all days; days: (4, M) the
    weights in those sums. square: (M,) the same of squared gains. moment, watched: (M,) of squared returns.
    A member's column counts only the days it had a return.
    """

    members: tuple[str, ...]
    as_of: date | None
    prior: FloatArray
    weights: FloatArray
    gain: FloatArray
    days: FloatArray
    square: FloatArray
    moment: FloatArray
    watched: FloatArray

    @classmethod
    def beginning(cls, members: Sequence[str], prior: FloatArray) -> Self:
        """Nothing is known: the prior weights. Raises DataError when these are not on the simplex."""
        prior = checked_weights(prior, len(members))
        rows, one = np.zeros((N_REGIMES + 1, len(members))), np.zeros(len(members))
        return cls(tuple(members), None, prior, prior, rows, rows, one, one, one)

    def carried_to(self, members: Sequence[str], prior: FloatArray) -> WeightState:
        """The state for other members: what is known of those that stay is kept; new ones begin at the prior.

        Those that stay share, in their present proportions, what the new ones' priors leave.
        """
        begun = WeightState.beginning(members, prior)
        here = [m for m, member in enumerate(members) if member in self.members]
        there = [self.members.index(members[m]) for m in here]
        arrays = {}
        for name in ("gain", "days", "square", "moment", "watched"):
            values = getattr(begun, name).copy()
            values[..., here] = getattr(self, name)[..., there]
            arrays[name] = values
        weights = begun.prior.copy()
        kept = self.weights[there]
        if kept.sum() > 0.0:
            weights[here] = kept / kept.sum() * begun.prior[here].sum()
        return replace(begun, as_of=self.as_of, weights=weights / weights.sum(), **arrays)

    def to_json(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
        } | {name: getattr(self, name).tolist() for name in _ARRAYS}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The same state again. Raises RegistryError on anything else."""
        try:
            members = tuple(str(member) for member in values["members"])
            as_of = None if values["as_of"] is None else date.fromisoformat(values["as_of"])
            arrays = {name: np.asarray(values[name], dtype=np.float64) for name in _ARRAYS}
            for name in ("prior", "weights"):
                checked_weights(arrays[name], len(members))
        except (KeyError, TypeError, ValueError, DataError) as exc:
            raise RegistryError(f"These are not the numbers of ensemble weights: {exc!r}.") from exc
        for name, array in arrays.items():
            wanted = (N_REGIMES + 1, len(members)) if name in ("gain", "days") else (len(members),)
            if array.shape != wanted or not np.isfinite(array).all():
                raise RegistryError(f"{name} of shape {array.shape} must be {wanted} and finite.")
        return cls(members, as_of, **arrays)


_ARRAYS = ("prior", "weights", "gain", "days", "square", "moment", "watched")


def updated(
    state: WeightState,
    day: date,
    returns: FloatArray,
    regime: FloatArray,
    *,
    parameters: WeightParameters = WEIGHTS,
) -> WeightState:
    """The state after one more finished day; its weights are held from the next day on.

    returns: (M,) net shadow return of each member on that day, through the market step; NaN = it had none,
    and nothing is learned of it. regime: (3,) filtered probabilities of that day, NaN before there are any.
    A day that was left out ages what is known; it teaches nothing. The weights move once an update.
    Raises DataError on a day that is not later than the last, another shape, an infinite return or a regime
    that is not a probability.
    """
    n = len(state.members)
    known_regime = bool(np.isfinite(regime).all())
    if state.as_of is not None and day <= state.as_of:
        raise DataError(f"The weights know {state.as_of} already: the next day cannot be {day}.")
    if returns.shape != (n,) or np.isinf(returns).any():
        raise DataError(f"Returns {returns.tolist()} must be {n} numbers, none infinite.")
    if regime.shape != (N_REGIMES,) or (known_regime and not _is_probability(regime)):
        raise DataError(
            f"The regime {regime.tolist()} must be {N_REGIMES} probabilities that sum to 1, or NaN."
        )

    passed = 1 if state.as_of is None else (day - state.as_of).days
    decay = 0.5 ** (passed / parameters.half_life_days)
    seen = np.isfinite(returns)
    ready = seen & (state.watched >= WATCHED_DAYS) & (state.moment > 0.0)
    gains = _gains(returns, ready, state)
    # Its own days age a regime; a member that is away keeps what is known of it, but for the overall mean.
    share = np.append(regime if known_regime else np.zeros(N_REGIMES), 1.0)
    ages = np.append(0.5 ** (share[:-1] / parameters.half_life_days), decay)[:, None]
    aged = np.where(ready, ages, np.where(np.arange(N_REGIMES + 1)[:, None] == N_REGIMES, decay, 1.0))
    after = replace(
        state,
        as_of=day,
        gain=aged * state.gain + share[:, None] * np.where(ready, gains, 0.0),
        days=aged * state.days + share[:, None] * ready,
        square=decay * state.square + np.where(ready, gains**2, 0.0),
        moment=decay * state.moment + np.where(seen, returns, 0.0) ** 2,
        watched=decay * state.watched + seen,
    )
    target = _target(after, regime if known_regime else None, parameters)
    moved = 0.5 * float(np.abs(target - state.weights).sum())
    step = 1.0 if moved <= parameters.max_turnover else parameters.max_turnover / moved
    weights = state.weights + step * (target - state.weights)
    return replace(after, weights=weights / weights.sum())


def weights_over(
    state: WeightState,
    days: TimeArray,
    returns: FloatArray,
    regimes: FloatArray,
    *,
    parameters: WeightParameters = WEIGHTS,
) -> tuple[FloatArray, WeightState]:
    """`updated` over a history: (D + 1, M) weights and the last state.

    days: (D,) datetime64[D]. returns: (D, M). regimes: (D, 3). Row d is held on day d and depends on the days
    before it alone; the last row is for the day after.
    """
    held = [state.weights]
    for day, row, regime in zip(days.astype("datetime64[D]").astype(object), returns, regimes, strict=True):
        state = updated(state, day, row, regime, parameters=parameters)
        held.append(state.weights)
    return np.stack(held), state


def _is_probability(regime: FloatArray) -> bool:
    return bool(regime.min() >= 0.0 and abs(regime.sum() - 1.0) < 1e-6)


def _gains(returns: FloatArray, ready: BoolArray, state: WeightState) -> FloatArray:
    """(M,) return over the volatility known before, less the prior blend's; 0 where not ready."""
    if not ready.any():
        return np.zeros(len(returns))
    deviation = np.sqrt(state.moment / np.maximum(state.watched, 1.0))
    scaled = np.where(ready, np.divide(returns, deviation, out=np.zeros_like(returns), where=ready), 0.0)
    scaled = np.clip(scaled, -_CLIP, _CLIP)
    blend = float(given_to_present(state.prior, ready) @ scaled)
    gains: FloatArray = np.where(ready, scaled - blend, 0.0)
    return gains


def _target(state: WeightState, regime: FloatArray | None, parameters: WeightParameters) -> FloatArray:
    """(M,) the weights that what is known would give."""
    days = np.maximum(state.days, 1e-9)
    mean = state.gain / days
    overall, overall_days = mean[-1], days[-1]
    variance = state.square / overall_days
    estimate, error = overall, variance / overall_days
    if regime is not None:
        # Of the regime's mean as much as its days carry; it is made of some of the same days.
        own = days[:-1] / (days[:-1] + parameters.regime_days)
        estimate = regime @ (own * mean[:-1] + (1.0 - own) * overall)
        spread = own**2 / days[:-1] + (1.0 - own**2) / overall_days
        error = variance * (regime @ spread)
    annual, error = estimate * np.sqrt(_DAYS_PER_YEAR), error * _DAYS_PER_YEAR
    belief = parameters.sharpe_spread**2 / (parameters.sharpe_spread**2 + error)
    known = state.days[-1] > 0.0
    log_weight = np.where(known, parameters.tilt * belief * annual, 0.0)
    raised = state.prior * np.exp(log_weight - log_weight.max())
    target: FloatArray = raised / raised.sum()
    return target
