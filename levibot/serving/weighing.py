"""Which weights a cross-section is taken under: the newest that may be known, and what stands in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from levibot.errors import RegistryError, StoreError, StoreUnavailable
from levibot.learning.members import Opinions, given_to_present, prior_weights
from levibot.market.bars import FloatArray
from levibot.resilience.guard import Guard
from levibot.stores.live_weights import HeldWeights, LiveWeights
from levibot.stores.signals import Blend

ENSEMBLE, ROUTER, FIXED = "ensemble", "router", "fixed_weights"
# The ways of weighing that are compared with each other, and with each member alone.
WAYS = (ENSEMBLE, ROUTER, FIXED)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The weights of one decision.

    ensemble, routed: (M,) of `members`; routed are the ensemble's own where `abstained` says why. read_from:
    redis, memory, prior or configuration. The others as in `Blend`.
    """

    members: tuple[str, ...]
    ensemble: FloatArray
    routed: FloatArray
    abstained: str
    regime: Mapping[str, float]
    read_from: str
    as_of: date | None
    age_s: float | None

    @classmethod
    def prior(cls, members: Sequence[str], why: str) -> Route:
        """The weights before anything is known."""
        weights = prior_weights(members)
        return cls(tuple(members), weights, weights, why, {}, "prior", None, None)

    @classmethod
    def configured(cls, members: Sequence[str], weights: Mapping[str, float]) -> Route:
        """The weights that an operator has set; the prior, and why, where they are of other members."""
        if set(weights) != set(members):
            return cls.prior(members, f"The weights set are of other members: {', '.join(weights)}.")
        given = np.array([weights[member] for member in members])
        return cls(tuple(members), given, given, "An operator has set them.", {}, "configuration", None, None)

    def blends(self, opinions: Opinions, no_trade_band: float) -> list[Blend | None]:
        """Of each symbol of one row of opinions, (1, S, M); None where nobody has an opinion."""
        weights = {ENSEMBLE: self.ensemble, ROUTER: self.routed, FIXED: prior_weights(self.members)}
        positions = {way: opinions.positions(of_way)[0] for way, of_way in weights.items()}
        positions |= {member: opinions.alone(member)[0] for member in self.members}
        route = ENSEMBLE if self.abstained else ROUTER
        return [
            self._blend(
                said,
                {name: float(of[s]) for name, of in positions.items() if np.isfinite(of[s])},
                no_trade_band,
                given_to_present(weights[route], np.isfinite(said)),
                route,
                opinions.absent,
            )
            if np.isfinite(said).any()
            else None
            for s, said in enumerate(opinions.values[0])
        ]

    def _blend(
        self,
        opinions: FloatArray,
        positions: dict[str, float],
        no_trade_band: float,
        weights: FloatArray,
        route: str,
        absent: Mapping[str, str],
    ) -> Blend:
        heard = [n for n, opinion in enumerate(opinions) if np.isfinite(opinion)]
        return Blend(
            opinions={self.members[n]: float(opinions[n]) for n in heard},
            positions=positions,
            no_trade_band=no_trade_band,
            weights={self.members[n]: float(weights[n]) for n in heard},
            route=route,
            abstained=self.abstained,
            regime=dict(self.regime),
            weights_from=self.read_from,
            weights_as_of=self.as_of,
            weights_age_s=self.age_s,
            absent=dict(absent),
        )


class Weighing:
    """Reads the weights of the ensemble. State: those that were read last.

    Its fallbacks: what was read last, then the prior; the route says which, and how old. Weights that have
    learned from the very day of a decision, or a later one, are not used for it.
    """

    def __init__(self, weights: LiveWeights, market_id: str, *, timeout_s: float) -> None:
        self._weights = weights
        self._market_id = market_id
        self._last: tuple[HeldWeights, ...] = ()
        self._guard = Guard(
            "ensemble weights",
            timeout_s=timeout_s,
            attempts=1,
            failure_threshold=2,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )

    async def route(self, members: Sequence[str], as_of: datetime) -> Route:
        """The weights for a decision at `as_of`, the close of a bar. Raises nothing that a store raises."""
        read_from, problem = "redis", ""
        try:
            self._last = await self._guard.call(self._weights.read, self._market_id)
        except (StoreError, RegistryError) as exc:
            read_from, problem = "memory", str(exc)
        return chosen(self._last, members, as_of, read_from, problem)


def day_of(as_of: datetime) -> date:
    """The UTC day that a bar's close belongs to: that of midnight is the day that ends there."""
    return (as_of.astimezone(UTC) - timedelta(microseconds=1)).date()


def over_at(day: date) -> datetime:
    """When a day is over."""
    return datetime.combine(day, time(0), UTC) + timedelta(days=1)


def chosen(
    held: Sequence[HeldWeights], members: Sequence[str], as_of: datetime, read_from: str, problem: str = ""
) -> Route:
    """The route under the newest of `held` that may be known at `as_of`; the prior where there is none."""
    may_be_known = [one for one in held if one.as_of is None or one.as_of < day_of(as_of)]
    if not may_be_known:
        return Route.prior(members, problem or "There are no weights of this market yet.")
    newest = max(may_be_known, key=lambda one: one.as_of or date.min)
    if newest.members != tuple(members):
        return Route.prior(members, f"The weights are of other members: {', '.join(newest.members)}.")
    age_s = None if newest.as_of is None else (as_of - over_at(newest.as_of)).total_seconds()
    return Route(
        members=newest.members,
        ensemble=np.asarray(newest.weights),
        routed=np.asarray(newest.routed),
        abstained=newest.abstained,
        regime=newest.regime,
        read_from=read_from,
        as_of=newest.as_of,
        age_s=age_s,
    )
