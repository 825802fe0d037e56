"""Moves the weights of the ensemble once a finished day, by what its members have earned in shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np

from levibot.errors import NotReady
from levibot.learning.ensemble_seed import EnsembleSeed, read_seed
from levibot.learning.market_days import MarketDays, market_days
from levibot.learning.members import prior_weights
from levibot.learning.regime import N_REGIMES, REGIMES
from levibot.learning.router import Router, router_features
from levibot.learning.signal import SignalModel
from levibot.learning.weights import WeightState, updated
from levibot.market.bars import FloatArray, Panel
from levibot.stores.live_weights import HeldWeights, LiveWeights
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore
from levibot.stores.weight_history import Known
from levibot.trading.allocation import on_days, regimes_at
from levibot.trading.shadow import Day

# In Redis: the newest, and those of the day before for a decision that must not know it.
N_HELD = 2
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, eq=False)
class Active:
    """The model that is live, and what its ensemble begins with."""

    version: str
    members: tuple[str, ...]
    train_end: datetime
    seed: EnsembleSeed | None

    @property
    def basis(self) -> str:
        """What the weights of a market without live days begin with."""
        return "prior" if self.seed is None else "walk-forward"

    def beginning(self) -> WeightState:
        """The weights before any live day."""
        prior = prior_weights(self.members)
        if self.seed is None:
            return WeightState.beginning(self.members, prior)
        return carried(self.seed.weights, self.members)


class WeightKeeping:
    """Learns finished days and publishes the weights; PostgreSQL is what it remembers by.

    Each day is learned once: its row is in the history before Redis is told, and the first row of a day
    stands. A market without live days begins with the model's seed; one that has them goes on from there, and
    takes the seed's router. State: the active model and its seed, read once; while there is none it is looked
    for, since a walk may end long after the activation.
    """

    def __init__(
        self,
        ticks: TickStore,
        live: LiveWeights,
        registry: Registry,
        ensembles: Registry,
        *,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
    ) -> None:
        self._ticks = ticks
        self._live = live
        self._registry = registry
        self._ensembles = ensembles
        self._market_id = market_id
        self._symbols = tuple(symbols)
        self._interval = interval
        self._active: Active | None = None

    async def turn(self, now: datetime) -> tuple[HeldWeights, ...]:
        """Learn what days are over, and see to it that Redis holds the newest weights, which are returned.

        Newest first. Raises NotReady while no model is active, and what stores and registry raise.
        """
        active = await self._loaded()
        known = await self._ticks.weights.newest(self._market_id, N_HELD, before=now.date())
        # What the weights began with stays true of them, whatever is found later.
        basis = known[0].held.basis if known else active.basis
        state = carried(known[0].state, active.members) if known else active.beginning()
        if await self._learn(active, state, basis, now):
            known = await self._ticks.weights.newest(self._market_id, N_HELD, before=now.date())
        held = [_of(active, one) for one in known] or [self._first(active)]
        if tuple(held) != await self._live.read(self._market_id):
            await self._live.write(self._market_id, held)
        return tuple(held)

    async def _loaded(self) -> Active:
        version = await asyncio.to_thread(self._registry.active)
        if version is None:
            raise NotReady("There are no weights without a model: none is active.")
        if self._active is None or self._active.version != version:
            metadata = await asyncio.to_thread(self._registry.metadata, version)
            members = SignalModel.members_of(metadata)
            self._active = Active(version, members, datetime.fromisoformat(metadata["train_end"]), None)
        if self._active.seed is None:
            seed = await asyncio.to_thread(read_seed, self._ensembles, version)
            self._active = replace(self._active, seed=seed)
        return self._active

    def _first(self, active: Active) -> HeldWeights:
        state = active.beginning()
        weights = tuple(state.weights.tolist())
        why = "No day of this market was learned yet."
        return HeldWeights(
            state.as_of, active.members, weights, weights, why, {}, active.basis, active.version
        )

    async def _learn(self, active: Active, state: WeightState, basis: str, now: datetime) -> int:
        """How many days were learned."""
        reach = await self._ticks.shadow.reach(self._market_id)
        if reach is None:
            return 0
        last = min(reach, now).date() - _ONE_DAY
        since = None if state.as_of is None else state.as_of + _ONE_DAY
        if since is not None and since > last:
            return 0
        earned = await self._ticks.shadow.days(self._market_id, end=last + _ONE_DAY)
        if not earned:
            return 0
        days, returns = returns_of(earned, active.members, last)
        first = days[0] if since is None else max(since, days[0])
        if first > last:
            return 0
        panel = await self._panel(now)

        def learn() -> list[Known]:
            return learned(active, state, days, returns, market_days(panel), first, basis)

        made = await asyncio.to_thread(learn)
        n_learned = 0
        for known in made:
            n_learned += await self._ticks.weights.append(self._market_id, known)
        return n_learned

    async def _panel(self, now: datetime) -> Panel:
        bars = {}
        for symbol in self._symbols:
            found = await self._ticks.read_bars(self._market_id, symbol, self._interval, allows_lag=True)
            bars[symbol] = found.closed_by(now)
        return Panel.align(bars)


def carried(state: WeightState, members: Sequence[str]) -> WeightState:
    """The state for these members; itself where it has them already."""
    if state.members == tuple(members):
        return state
    return state.carried_to(members, prior_weights(members))


def returns_of(earned: Sequence[Day], members: Sequence[str], last: date) -> tuple[list[date], FloatArray]:
    """The days from the first of `earned` to `last`, none left out, and (D, M) net returns of the members.

    NaN before a member's account was opened; 0 on a day without bars, as in `daily_returns`.
    """
    first = min(day.day for day in earned)
    days = [first + n * _ONE_DAY for n in range((last - first).days + 1)]
    returns = np.full((len(days), len(members)), np.nan)
    for column, member in enumerate(members):
        own = sorted((day for day in earned if day.account == member), key=lambda day: day.day)
        if own:
            returns[(own[0].day - first).days :, column] = 0.0
        for day in own:
            returns[(day.day - first).days, column] = day.net_return
    return days, returns


def learned(
    active: Active,
    state: WeightState,
    days: Sequence[date],
    returns: FloatArray,
    market: MarketDays,
    first: date,
    basis: str,
) -> list[Known]:
    """What is known after each of the days from `first` on, oldest first. basis: what the weights began with.

    days: (D,) none missing, up to the last that is over; returns: (D, M) of `active.members`. The same code
    as over a backtest's history: the regimes are fitted at the model's making, and only filtered since.
    """
    regimes = regimes_at(market, [active.train_end])
    own = np.array(days, dtype="datetime64[D]")
    of_days = on_days(market.day, regimes, own)
    router = None if active.seed is None else active.seed.router
    features = _features(router, active.members, market, regimes, own, returns)
    made = []
    for row, day in enumerate(days):
        if day < first:
            continue
        state = updated(state, day, returns[row], of_days[row])
        routed, abstained = lean(router, active, features[row : row + 1], state.weights)
        held = HeldWeights(
            as_of=day,
            members=active.members,
            weights=tuple(state.weights.tolist()),
            routed=tuple(routed.tolist()),
            abstained=abstained,
            regime=_regime(of_days[row]),
            basis=basis,
            model_version=active.version,
        )
        made.append(Known(held, state))
    return made


def lean(
    router: Router | None, active: Active, features: FloatArray, weights: FloatArray
) -> tuple[FloatArray, str]:
    """The router's weights (M,), and why they are the ensemble's own, empty where they are not."""
    if router is None:
        return weights, f"No router was trained for {active.version}."
    if router.members != active.members:
        return weights, f"The router knows other members: {', '.join(router.members)}."
    if router.abstains:
        return weights, (
            f"The router showed too little skill: {router.skill:.2f} standard errors on {router.rows} days."
        )
    if not np.isfinite(features).any():
        return weights, "The router has nothing to go on: no feature of the day is known."
    return router.weights(features, weights)[0], ""


def _features(
    router: Router | None,
    members: Sequence[str],
    market: MarketDays,
    regimes: FloatArray,
    days: Any,
    returns: FloatArray,
) -> FloatArray:
    """(D, F) of the days, NaN where the market does not know one; empty where nobody reads them."""
    if router is None or router.abstains:
        return np.empty((len(days), 0))
    _, features = router_features(market, regimes, members, on_days(days, returns, market.day))
    return on_days(market.day, features, days)


def _regime(probabilities: FloatArray) -> Mapping[str, float]:
    if probabilities.shape != (N_REGIMES,) or not np.isfinite(probabilities).all():
        return {}
    return dict(zip(REGIMES, probabilities.tolist(), strict=True))


def _of(active: Active, known: Known) -> HeldWeights:
    """What was known after a day, for the members of the model that is live."""
    if known.held.members == active.members:
        return known.held
    state = carried(known.state, active.members)
    weights = tuple(state.weights.tolist())
    why = f"The members have changed since {known.held.as_of}: it was asked about others."
    return replace(known.held, members=active.members, weights=weights, routed=weights, abstained=why)
