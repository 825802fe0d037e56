"""What each member earned alone, and the weights that followed from it, day by day over a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from levibot.learning.market_days import MarketDays
from levibot.learning.members import prior_weights
from levibot.learning.regime import MIN_DAYS, N_REGIMES, REGIMES, walk_forward_regimes
from levibot.learning.router import Router, fit_router, router_features
from levibot.learning.weights import WeightState, weights_over
from levibot.market.bars import BoolArray, FloatArray, TimeArray, to_datetime64

_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Weights over the days of a test; row d is held on day d and rests on the days before it alone.

    day: (D,) datetime64[D]. regimes: (D, 3) filtered at the end of each day, NaN before there are any.
    ensemble, routed: (D, M) on the simplex. routers: one a fit; one that abstains leaves the ensemble's
    weights as they are.
    """

    members: tuple[str, ...]
    day: TimeArray
    regimes: FloatArray
    ensemble: FloatArray
    routed: FloatArray
    routers: tuple[Router, ...]

    def of_rows(self, closes_at: TimeArray, weights: FloatArray) -> FloatArray:
        """(T, M) the weights (D, M) under which decisions at these closes are taken.

        A bar that closes at midnight belongs to the day that ends there, as in `daily_returns`: what that day
        earned is not in its own weights.
        """
        of_row = (closes_at - np.timedelta64(1, "us")).astype("datetime64[D]")
        row = (of_row - self.day[0]).astype(np.int64)
        # What is decided before the first day is held under the first weights, which rest on nothing.
        held: FloatArray = weights[np.clip(row, 0, len(weights) - 1)]
        return held

    def to_json(self) -> dict[str, Any]:
        """The weights by year and on the last day, the regimes by year, and what was found of each router."""
        years = self.day.astype("datetime64[Y]")
        return {
            "members": list(self.members),
            "weights": {
                name: {
                    **{str(year): _named(self.members, held[years == year]) for year in np.unique(years)},
                    "last": _named(self.members, held[-1:]),
                }
                for name, held in (("ensemble", self.ensemble), ("router", self.routed))
            },
            "regimes": {str(year): _named(REGIMES, self.regimes[years == year]) for year in np.unique(years)},
            "routers": [
                {
                    "abstains": router.abstains,
                    "days": router.rows,
                    "skill": router.skill if np.isfinite(router.skill) else None,
                    "share": router.share,
                }
                for router in self.routers
            ],
        }


def allocate(
    members: Sequence[str],
    day: TimeArray,
    returns: FloatArray,
    market: MarketDays,
    fits: Sequence[datetime],
    *,
    seed: int,
) -> Allocation:
    """Let the weights follow the members' net returns, and a router lean them where it has shown skill.

    day: (D,) of the test, none missing. returns: (D, M) of each member alone, net of costs, through the
    market step. market: finished days of the whole history; those before the test teach the regimes. fits:
    the instants at which models are made; regimes and router are fitted then, on finished days alone.
    Raises DataError on shapes that do not agree.
    """
    members = tuple(members)
    regimes = regimes_at(market, fits)
    own = on_days(market.day, regimes, day)
    state = WeightState.beginning(members, prior_weights(members))
    weights, _ = weights_over(state, day, returns, own)
    ensemble = weights[:-1]
    routed, routers = ensemble.copy(), []
    # A router reads days of the market and of the members together; those before the test have no members.
    known: BoolArray = np.asarray(np.isin(market.day, day))
    names, features = router_features(market, regimes, members, on_days(day, returns, market.day))
    features = np.where(known[:, None], features, np.nan)
    edges = [*(to_datetime64(at).astype("datetime64[D]") for at in fits), day[-1] + _DAY]
    for begin, end in pairwise(edges):
        past = known & (market.day < begin)
        taught = on_days(day, returns, market.day[past])
        router = fit_router(members, names, features[past], taught, seed=seed)
        routers.append(router)
        held = (day >= begin) & (day < end)
        # The features of the day before are what is known when a day begins.
        before = on_days(market.day, features, day[held] - _DAY)
        routed[held] = router.weights(before, ensemble[held])
    return Allocation(members, day, own, ensemble, routed, tuple(routers))


def regimes_at(market: MarketDays, fits: Sequence[datetime]) -> FloatArray:
    """(D, 3) filtered regimes of the market's days, by models fitted at these instants on what was finished.

    NaN before the first fit that has days enough.
    """
    observations = market.regime_observations()
    rows = [int(np.searchsorted(market.day + _DAY, to_datetime64(at), side="right")) for at in fits]
    seen: BoolArray = np.asarray(np.isfinite(observations).all(axis=1))
    ready = [row for row in rows if seen[:row].sum() >= MIN_DAYS]
    if not ready:
        return np.full((len(market), N_REGIMES), np.nan)
    return walk_forward_regimes(observations, ready)


def on_days(day: TimeArray, values: FloatArray, wanted: TimeArray) -> FloatArray:
    """Rows of values, one a day, for the wanted days; NaN where there is none. day: without gaps."""
    found = np.full((len(wanted), values.shape[1]), np.nan)
    if len(day):
        row = (wanted - day[0]).astype(np.int64)
        there = (row >= 0) & (row < len(day))
        found[there] = values[row[there]]
    return found


def _named(names: Sequence[str], values: FloatArray) -> dict[str, float | None]:
    """The mean of each column over the days that have one, by name."""
    told = values[np.isfinite(values).all(axis=1)]
    means = told.mean(axis=0) if len(told) else np.full(values.shape[1], np.nan)
    return {name: float(v) if np.isfinite(v) else None for name, v in zip(names, means, strict=True)}
