"""What each member earned alone, and the weights that followed from it, day by day over a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.learning.market_days import MarketDays
from levibot.learning.members import prior_weights
from levibot.learning.regime import MIN_DAYS, N_REGIMES, walk_forward_regimes
from levibot.learning.router import Router, fit_router, router_features
from levibot.learning.weights import WeightState, weights_over
from levibot.market.bars import FloatArray, TimeArray, to_datetime64

_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """Weights over the days of a test; row d is held on day d and rests on the days before it alone.

    day: (D,) datetime64[D]. regimes: (D, 3) filtered at the end of each day, NaN before there are any.
    ensemble, routed: (D, M) on the simplex. routers: one a fit; those that abstain leave the ensemble's weights.
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
        held: FloatArray = weights[(of_row - self.day[0]).astype(np.int64)]
        return held


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
    regimes = _regimes(market, fits)
    own = _on_days(market.day, regimes, day)
    state = WeightState.beginning(members, prior_weights(members))
    weights, _ = weights_over(state, day, returns, own)
    ensemble = weights[:-1]
    routed, routers = ensemble.copy(), []
    # A router reads days of the market and of the members together; those before the test have no members.
    known = _rows_of(market.day, day)
    names, features = router_features(market, regimes, members, _on_days(day, returns, market.day))
    features = np.where(known[:, None], features, np.nan)
    edges = [*(to_datetime64(at).astype("datetime64[D]") for at in fits), day[-1] + _DAY]
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        past = known & (market.day < begin)
        taught = returns[day < begin][-int(past.sum()) :] if past.any() else returns[:0]
        router = fit_router(members, names, features[past], taught, seed=seed)
        routers.append(router)
        held = (day >= begin) & (day < end)
        # The features of the day before are what is known when a day begins.
        before = _on_days(market.day, features, day[held] - _DAY)
        routed[held] = router.weights(before, ensemble[held])
    return Allocation(members, day, own, ensemble, routed, tuple(routers))


def _regimes(market: MarketDays, fits: Sequence[datetime]) -> FloatArray:
    """(D, 3) of the market's days; NaN before the first fit that has days enough."""
    observations = market.regime_observations()
    rows = [int(np.searchsorted(market.day + _DAY, to_datetime64(at), side="right")) for at in fits]
    seen = np.isfinite(observations).all(axis=1)
    ready = [row for row in rows if seen[:row].sum() >= MIN_DAYS]
    if not ready:
        return np.full((len(market), N_REGIMES), np.nan)
    return walk_forward_regimes(observations, ready)


def _on_days(day: TimeArray, values: FloatArray, wanted: TimeArray) -> FloatArray:
    """Rows of values, one a day, for the wanted days; NaN where there is none. day: without gaps."""
    found = np.full((len(wanted), values.shape[1]), np.nan)
    if len(day):
        row = (wanted - day[0]).astype(np.int64)
        there = (row >= 0) & (row < len(day))
        found[there] = values[row[there]]
    return found


def _rows_of(day: TimeArray, wanted: TimeArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    known: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.isin(day, wanted)
    return known
