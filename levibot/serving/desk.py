"""Computes the cross-section of signals once per finished bar."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.errors import NotReady, StoreUnavailable
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray
from levibot.resilience.guard import Guard
from levibot.stores.online import FeatureReading, OnlineStore, Signal


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is live: its version and the source that its market comes from."""

    model_version: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class _Answered:
    """The question that a model answered last, and its answer. windows: (R, S, F)."""

    served: Served
    newest: datetime
    windows: FloatArray
    signals: list[Signal]


def _ignore(readings: Sequence[FeatureReading]) -> None:
    """Keep nothing of what was served."""


class SignalDesk:
    """Reads the newest windows, asks the model, writes the signals, and remembers the last ones.

    on_served: told the windows that a model has answered, once for each answer. It must not wait for a thing.
    """

    def __init__(
        self,
        online: OnlineStore,
        symbols: Sequence[str],
        *,
        timeout_s: float = 2.0,
        on_served: Callable[[Sequence[FeatureReading]], None] = _ignore,
    ) -> None:
        self._online = online
        self._on_served = on_served
        self._symbols = tuple(symbols)
        self._last: dict[str, Signal] = {}
        self._answered: _Answered | None = None
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

    async def compute(
        self, predict: Callable[[FloatArray], Awaitable[Signals]], served: Served, ttl_s: float
    ) -> dict[str, Signal]:
        """One signal for each symbol that has features at the newest bar, written to live for `ttl_s`.

        predict: takes the windows (R, S, F), NaN for a symbol without features there. Such a symbol, or one
        for which the model has no opinion, gets no signal: what is missing is not zero.
        For the windows that it answered last the model is not asked again: its signals live on.
        Raises NotReady without any features online, StoreUnavailable when Redis does not answer.
        """
        readings = await self._redis.call(self._online.get_windows, self._symbols)
        newest = max((r.event_time for r in readings.values() if r.event_time), default=None)
        windows = {s: r.rows for s, r in readings.items() if r.event_time == newest and r.rows is not None}
        if newest is None or not windows:
            raise NotReady(
                "No features are online for " + ", ".join(self._symbols) + ".",
                hint="The feed may be starting, or the recorded market may have ended; see /readyz.",
            )
        stacked = self._cross_section(windows)
        signals = self._known(served, newest, stacked)
        if signals is None:
            opinions = await predict(stacked)
            signals = self._signals(opinions, served, newest)
            self._answered = _Answered(served, newest, stacked, signals)
            self._last |= {s.symbol: s for s in signals}
            self._on_served([readings[symbol] for symbol in windows])
        await self._redis.call(self._online.write_signals, signals, ttl_s)
        return {s.symbol: s for s in signals}

    def _known(self, served: Served, newest: datetime, stacked: FloatArray) -> list[Signal] | None:
        """What this model has said of the very same windows."""
        known = self._answered
        if known is None or (known.served, known.newest) != (served, newest):
            return None
        return known.signals if np.array_equal(known.windows, stacked, equal_nan=True) else None

    def _signals(self, opinions: Signals, served: Served, newest: datetime) -> list[Signal]:
        return [
            Signal(
                symbol=symbol,
                as_of=newest,
                probability_up=float(opinions.probability_up[column]),
                target_position=float(opinions.target_position[column]),
                model_version=served.model_version,
                view_version=self._online.view_version,
                market_id=self._online.market_id,
                source=served.source,
                expected_return=_finite(opinions.expected_return[column]),
            )
            for column, symbol in enumerate(self._symbols)
            if np.isfinite(opinions.target_position[column]) and np.isfinite(opinions.probability_up[column])
        ]

    def _cross_section(self, windows: dict[str, FloatArray]) -> FloatArray:
        """(R, S, F) in the order of the symbols; NaN where a symbol has no features at the newest bar."""
        rows = max(len(w) for w in windows.values())
        n_features = next(iter(windows.values())).shape[1]
        stacked = np.full((rows, len(self._symbols), n_features), np.nan)
        for column, symbol in enumerate(self._symbols):
            if symbol in windows:
                stacked[rows - len(windows[symbol]) :, column] = windows[symbol]
        return stacked


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
