"""Computes the cross-section of signals once per finished bar."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.errors import NotReady, StoreUnavailable
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray
from levibot.resilience.guard import Guard
from levibot.serving.cross_section import CrossSection, newest_cross_section
from levibot.serving.weighing import Route
from levibot.stores.online import FeatureReading, OnlineStore, Signal


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is live: its version and the source that its market comes from."""

    model_version: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """The question that a model answered last, and its answer."""

    section: CrossSection
    signals: list[Signal]


# Lives are renewed so many times before they would end, and every so many seconds at most.
RENEWALS, RENEW_S = 3.0, 2.0
# The weights of these members for a decision at this close.
Weigh = Callable[[Sequence[str], datetime], Awaitable[Route]]


async def weigh_by_prior(members: Sequence[str], _: datetime) -> Route:
    """The weights of a desk that nobody tells others."""
    return Route.prior(members, "Nobody tells this desk any weights.")


def _ignore(readings: Sequence[FeatureReading]) -> None:
    """Keep nothing of what was served."""


class SignalDesk:
    """Reads the newest windows, asks the model, weighs its members, writes the signals, remembers the last.

    Signals are written when they are new. After that only their life in Redis is renewed, every RENEW_S: how
    old they are is said by `as_of`, and does not depend on it.
    weigh: gives the members' weights for a decision; raises nothing.
    on_served: told the windows that a model has answered, once for each answer. It must not wait for a thing.
    n_models: whose answers are remembered, those of the models that were asked last.
    """

    def __init__(
        self,
        online: OnlineStore,
        symbols: Sequence[str],
        *,
        timeout_s: float = 2.0,
        weigh: Weigh = weigh_by_prior,
        on_served: Callable[[Sequence[FeatureReading]], None] = _ignore,
        n_models: int = 1,
    ) -> None:
        self._online = online
        self._weigh = weigh
        self._on_served = on_served
        self._symbols = tuple(symbols)
        self._last: dict[str, Signal] = {}
        self.n_models = n_models
        self._answered: dict[Served, _Answered] = {}
        self._kept: list[Signal] = []
        self._renew_at = 0.0
        # The fallback is the caller's: `last`. While Redis hangs, callers come to it without a time-out each.
        self._redis = Guard(
            "redis",
            timeout_s=timeout_s,
            attempts=1,
            failure_threshold=2,
            reset_s=1.0,
            transient=(StoreUnavailable,),
        )

    @property
    def last(self) -> dict[str, Signal]:
        """The newest signals this desk has computed."""
        return dict(self._last)

    def ask_again(self) -> None:
        """Take no answer for known: what weighs the members has changed."""
        self._answered = {}

    async def compute(
        self, predict: Callable[[FloatArray], Awaitable[Signals]], served: Served, ttl_s: float
    ) -> dict[str, Signal]:
        """One signal for each symbol that has features at the newest bar, written to live for `ttl_s`.

        predict and what is raised: as of `look`; StoreUnavailable also where the signals cannot be written.
        """
        signals = await self.look(predict, served)
        self._last |= {s.symbol: s for s in signals}
        await self._keep(signals, ttl_s)
        return {s.symbol: s for s in signals}

    async def look(self, predict: Callable[[FloatArray], Awaitable[Signals]], served: Served) -> list[Signal]:
        """What a model says of each symbol that has features at the newest bar. It is written nowhere.

        predict: takes the windows (R, S, F), NaN for a symbol without features there. Such a symbol, or one
        for which the model has no opinion, gets no signal: what is missing is not zero.
        For the windows that it answered last a model is not asked again: its signals live on, and what was
        decided at a close stays what was decided. A member that was absent then takes part at the next one.
        Raises NotReady without any features online, StoreUnavailable when Redis does not answer.
        """
        readings = await self._redis.call(self._online.get_windows, self._symbols)
        section = newest_cross_section(readings, self._symbols)
        if section is None:
            raise NotReady(
                "No features are online for " + ", ".join(self._symbols) + ".",
                hint="The feed may be starting, or the recorded market may have ended; see /readyz.",
            )
        signals = self._known(served, section)
        if signals is None:
            said = await predict(section.windows)
            route = await self._weigh(said.opinions.members, section.newest)
            signals = self._signals(said, route, served, section.newest)
            answered = [*self._answered.items(), (served, _Answered(section, signals))]
            self._answered = dict(answered[-self.n_models :])
            self._on_served([readings[symbol] for symbol in section.symbols])
        return signals

    async def _keep(self, signals: list[Signal], ttl_s: float) -> None:
        """Write what is new; of what is written already renew the life, when it is time to."""
        now = time.monotonic()
        if signals is self._kept and now < self._renew_at:
            return
        keep = self._online.renew_signals if signals is self._kept else self._online.write_signals
        await self._redis.call(keep, signals, ttl_s)
        self._kept, self._renew_at = signals, now + min(RENEW_S, ttl_s / RENEWALS)

    def _known(self, served: Served, section: CrossSection) -> list[Signal] | None:
        """What this model has said of the very same windows."""
        known = self._answered.get(served)
        if known is None or not known.section.is_same(section):
            return None
        return known.signals

    def _signals(self, said: Signals, route: Route, served: Served, newest: datetime) -> list[Signal]:
        blends = route.blends(said.opinions, said.no_trade_band)
        return [
            Signal(
                symbol=symbol,
                as_of=newest,
                probability_up=float(said.probability_up[column]),
                target_position=blend.positions[blend.route],
                model_version=served.model_version,
                view_version=self._online.view_version,
                market_id=self._online.market_id,
                source=served.source,
                expected_return=_finite(said.expected_return[column]),
                blend=blend,
            )
            for column, (symbol, blend) in enumerate(zip(self._symbols, blends, strict=True))
            if blend is not None
            and blend.route in blend.positions
            and np.isfinite(said.probability_up[column])
        ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
