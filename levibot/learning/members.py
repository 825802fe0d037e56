"""The members of the ensemble, what they weigh before anything is known of them, and how they add up.

A member has an opinion of each symbol between -1 and 1: a rule (`trend`: max(mean tanh, 0), `strength`) or a
learned one (a smoothed tanh of prediction over usual size, shorts at half). The ensemble's score is

    score = PARTS * sum over members of weight * opinion,   weights >= 0, sum 1

and a position follows from the score through the volatility target and the no-trade band. The prior weights
are the signal of three parts: each rule is one part, the learned members share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np

from levibot.errors import DataError
from levibot.market.bars import BoolArray, FloatArray

RULES = ("trend", "strength")
# What may be held. long-short: what the score says. long-flat: no shorts. long-only: always in the market,
# the whole equity in what is long, in equal parts where nothing is.
Sides = Literal["long-short", "long-flat", "long-only"]
# The scale that makes the prior weights the sum of trend, strength and one learned opinion.
PARTS = 3.0


def prior_weights(members: Sequence[str]) -> FloatArray:
    """(M,) on the simplex: one part to each rule, one part shared by the learned members.

    Raises DataError without members, or with one named twice.
    """
    if not members or len(set(members)) < len(members):
        raise DataError(f"The members are {', '.join(members) or 'none'}: each must be named once.")
    n_learned = sum(member not in RULES for member in members)
    parts = np.array([1.0 if member in RULES else 1.0 / n_learned for member in members])
    weights: FloatArray = parts / parts.sum()
    return weights


def given_to_present(weights: FloatArray, present: BoolArray) -> FloatArray:
    """Weights (..., M) of those present alone: what the missing ones weigh goes to the others in proportion.

    present: broadcasts with weights. Where all of those present weigh nothing, they share equally; where none
    is present, every weight is NaN.
    """
    present, weights = np.broadcast_arrays(present, weights)
    kept = np.where(present, weights, 0.0)
    total = kept.sum(axis=-1, keepdims=True)
    kept = np.where(total > 0.0, kept, present)
    total = kept.sum(axis=-1, keepdims=True)
    shared: FloatArray = np.divide(kept, total, out=np.full(kept.shape, np.nan), where=total > 0.0)
    return shared


def combined(opinions: FloatArray, weights: FloatArray) -> FloatArray:
    """The ensemble's score (...,) of opinions (..., M) in [-1, 1] under weights (M,) or (..., M).

    A NaN opinion is a missing member there and then: its weight goes to the others. No opinion, no score:
    NaN. The score lies in [-PARTS, PARTS].
    """
    present = np.isfinite(opinions)
    shared = given_to_present(weights, present)
    score: FloatArray = PARTS * (shared * np.where(present, opinions, 0.0)).sum(axis=-1)
    return score


@dataclass(frozen=True, slots=True, eq=False)
class Opinions:
    """What each member says of every row and symbol.

    values: (T, S, M) in [-1, 1], NaN where there is no signal. unit: (T, S) the position, a fraction of
    equity, of a score of 1: what the volatility target leaves of a symbol's share. probability_up: (T, S, M)
    calibrated, that the price is higher after the longest horizon; NaN for rules, which state none. absent:
    the members that were asked and did not answer, and why; their values are NaN.
    """

    members: tuple[str, ...]
    values: FloatArray
    unit: FloatArray
    probability_up: FloatArray
    sides: Sides = "long-short"
    absent: Mapping[str, str] = field(default_factory=dict)

    def positions(self, weights: FloatArray) -> FloatArray:
        """(T, S) of the ensemble under weights (M,), or (T, M) of each row; NaN where there is no signal."""
        by_row = weights[:, None, :] if weights.ndim == 2 else weights
        return _within_equity(on_sides(combined(self.values, by_row) * self.unit, self.sides))

    def row(self, t: int) -> Opinions:
        """The opinions of one row, which may be counted from the end: (1, S, M) and (1, S)."""
        return self.rows(slice(t, t + 1 or None))

    def alone(self, member: str) -> FloatArray:
        """(T, S) of one member that has the account to itself."""
        said = self.values[..., self.members.index(member)]
        return _within_equity(on_sides(said * self.unit, self.sides))

    def rows(self, rows: slice) -> Opinions:
        """A cut of the time axis."""
        return replace(
            self,
            values=self.values[rows],
            unit=self.unit[rows],
            probability_up=self.probability_up[rows],
        )


def on_sides(positions: FloatArray, sides: Sides) -> FloatArray:
    """Positions (T, S) as far as they may be held; NaN stays NaN. Raises DataError on other sides."""
    if sides not in get_args(Sides):
        raise DataError(f"sides is {sides!r}: it must be one of {', '.join(get_args(Sides))}.")
    if sides == "long-short":
        return positions
    # NaN stays NaN in a maximum.
    long: FloatArray = np.maximum(positions, 0.0)
    if sides == "long-flat":
        return long
    there = np.isfinite(long)
    total = np.nansum(long, axis=1, keepdims=True)
    equal = 1.0 / np.maximum(there.sum(axis=1, keepdims=True), 1)
    shares = np.divide(long, total, out=np.broadcast_to(equal, long.shape).copy(), where=total > 0.0)
    return np.where(there, shares, np.nan)


def _within_equity(positions: FloatArray) -> FloatArray:
    """Positions of each row scaled down where their sizes add up to more than the equity."""
    gross = np.nansum(np.abs(positions), axis=1, keepdims=True)
    scaled: FloatArray = positions / np.maximum(gross, 1.0)
    return scaled


def checked_weights(weights: FloatArray, n_members: int) -> FloatArray:
    """The same weights, when they are (M,) finite, >= 0 and sum to 1. Raises DataError otherwise."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n_members,) or not np.isfinite(weights).all() or weights.min() < 0.0:
        raise DataError(f"Weights {weights.tolist()} must be {n_members} finite numbers, none negative.")
    if abs(weights.sum() - 1.0) > 1e-9:
        raise DataError(f"The weights sum to {weights.sum():.12f}: they must sum to 1.")
    return weights
