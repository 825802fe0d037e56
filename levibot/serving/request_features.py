"""Features that need the request, computed when it comes from the newest bars of its symbol."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.features.inputs import FILL_LIMIT
from levibot.features.on_demand import OnDemandFeature, Request, compute_on_demand
from levibot.market.bars import Bars, Panel, to_datetime
from levibot.resilience.guard import Guard
from levibot.stores.reading import MISSING_VALUE, FeatureReading, Freshness, ValueReading
from levibot.stores.ticks import TickStore

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Requested:
    """What was computed for a request: one reading a feature, by name, as old as the newest bar it has seen.

    problem: why values are missing that should not be, empty where nothing is wrong.
    """

    values: dict[str, ValueReading]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SymbolFeatures:
    """What is known of a symbol at `market_time`: the vector of a view, and the features of the request.

    names: of all features of the view, of which the vector may lack some.
    """

    vector: FeatureReading
    requested: Requested
    market_time: datetime
    view: str
    view_version: str
    names: tuple[str, ...]


class RequestFeatures:
    """Answers requests about the symbols of one market, for one event loop.

    State: the connection, opened at the first request, and the newest bars of each symbol that was asked
    about: they are read again when another one is due.
    """

    def __init__(
        self,
        features: Sequence[OnDemandFeature],
        open_ticks: Callable[[], Awaitable[TickStore]],
        *,
        market_id: str,
        interval: timedelta,
        fresh_bars: float,
        timeout_s: float,
    ) -> None:
        self._features = tuple(features)
        self._n_bars = max(feature.warmup_bars for feature in self._features) + FILL_LIMIT
        self._open = open_ticks
        self._market_id = market_id
        self._interval = interval
        self._fresh_bars = fresh_bars
        self._ticks: TickStore | None = None
        self._newest: dict[str, Bars] = {}
        # Its fallback is the bars that are here already: the answer says how old they are.
        self._guard = Guard(
            "ticks",
            timeout_s=timeout_s,
            attempts=1,
            failure_threshold=3,
            reset_s=2.0,
            transient=(StoreUnavailable,),
        )

    async def close(self) -> None:
        if self._ticks is not None:
            await self._ticks.close()

    async def answer(self, request: Request) -> Requested:
        """The features of a request; MISSING what is not known, and why, where it should be."""
        bars, problem = await self._bars(request.symbol, request.as_of)
        if bars is None or not len(bars):
            problem = problem or f"{request.symbol} has no finished bars at {request.as_of.isoformat()}."
            return Requested({feature.name: MISSING_VALUE for feature in self._features}, problem)
        computed = compute_on_demand(self._features, Panel.align({request.symbol: bars}), request)
        age = request.as_of - (to_datetime(bars.ts[-1]) + self._interval)
        is_fresh = age <= self._fresh_bars * self._interval
        freshness = Freshness.FRESH if is_fresh else Freshness.STALE
        values = {
            feature.name: ValueReading(float(value), freshness, age.total_seconds())
            if np.isfinite(value)
            else MISSING_VALUE
            for feature, value in zip(self._features, computed, strict=True)
        }
        return Requested(values, problem)

    async def _bars(self, symbol: str, as_of: datetime) -> tuple[Bars | None, str]:
        """The bars that were finished by then, and why there are no newer ones, where that is a problem."""
        kept = self._newest.get(symbol)
        # The bar that closed last, if the market has it.
        due = as_of - (as_of - _EPOCH) % self._interval - self._interval
        if kept is not None and len(kept) and to_datetime(kept.ts[-1]) >= due:
            return kept.closed_by(as_of), ""
        try:
            self._newest[symbol] = await self._guard.call(self._read, symbol, due)
        except LeviBotError as exc:
            return kept, f"The newest bars cannot be read: {exc.message}"
        return self._newest[symbol], ""

    async def _read(self, symbol: str, due: datetime) -> Bars:
        if self._ticks is None:
            self._ticks = await self._open()
        end = due + timedelta(microseconds=1)
        found = await self._ticks.read_tail(self._market_id, [symbol], self._interval, self._n_bars, end)
        return found[symbol]
