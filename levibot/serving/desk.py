"""Computes the cross-section of signals once per finished bar."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from levibot.errors import NotReady
from levibot.learning.signal import Signals
from levibot.market.bars import FloatArray
from levibot.stores.online import OnlineStore, Signal


@dataclass(frozen=True, slots=True)
class Served:
    """The model that is live: its version and the source that its market comes from."""

    model_version: str
    source: str


class SignalDesk:
    """Reads the newest windows, asks the model, writes the signals, and remembers the last ones."""

    def __init__(self, online: OnlineStore, symbols: Sequence[str]) -> None:
        self._online = online
        self._symbols = tuple(symbols)
        self._last: dict[str, Signal] = {}

    @property
    def last(self) -> dict[str, Signal]:
        """The newest signals this desk has computed."""
        return dict(self._last)

    async def newest_event(self) -> datetime | None:
        """The close of the newest bar that has features online, None without any."""
        readings = await self._online.read(self._symbols)
        return max((r.event_time for r in readings.values() if r.event_time), default=None)

    async def compute(
        self, predict: Callable[[FloatArray], Awaitable[Signals]], served: Served, ttl_s: float
    ) -> dict[str, Signal]:
        """One signal for each symbol that has features at the newest bar.

        predict: takes the windows (R, S, F), NaN for a symbol without features there. Such a symbol, or one
        for which the model has no opinion, gets no signal: what is missing is not zero.
        Raises NotReady without any features online, StoreUnavailable when Redis does not answer.
        """
        readings = await self._online.read(self._symbols)
        newest = max((r.event_time for r in readings.values() if r.event_time), default=None)
        windows = {
            s: r.window for s, r in readings.items() if r.event_time == newest and r.window is not None
        }
        if newest is None or not windows:
            raise NotReady(
                "No features are online for " + ", ".join(self._symbols) + ".",
                hint="The feed may be starting, or the recorded market may have ended; see /readyz.",
            )
        opinions = await predict(self._cross_section(windows))
        signals = [
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
        self._last |= {s.symbol: s for s in signals}
        await self._online.write_signals(signals, ttl_s)
        return {s.symbol: s for s in signals}

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
