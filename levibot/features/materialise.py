"""Brings the online store up to date with the tick store: the newest feature rows of every symbol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from levibot.features.engine import compute_tail
from levibot.features.view import FeatureView
from levibot.market.bars import Bars, Panel, to_datetime
from levibot.stores.online import FeatureWindow, OnlineStore
from levibot.stores.ticks import TickStore


@dataclass(frozen=True, slots=True)
class Materialised:
    """What one pass wrote: the close of the newest row and the symbols that have a vector there."""

    event_time: datetime
    symbols: tuple[str, ...]


class Materialiser:
    """Keeps the bounded window of bars that the view needs, and nothing that the tick store does not know.

    rows: how many newest feature rows a reader gets (the served model's window).
    """

    def __init__(
        self,
        ticks: TickStore,
        online: OnlineStore,
        *,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
        view: FeatureView,
        rows: int,
    ) -> None:
        self._ticks = ticks
        self._online = online
        self._market_id = market_id
        self._symbols = tuple(symbols)
        self._interval = interval
        self._view = view
        self._rows = rows
        self._window: dict[str, Bars] = {}
        self._newest: Materialised | None = None
        self._written: list[FeatureWindow] = []

    async def refresh(self, as_of: datetime) -> Materialised | None:
        """Read new bars, compute, write the whole cross-section; returns what is online, None without bars.

        Bars that are not finished at `as_of` are not read, whatever the store holds. Without new bars the
        same vectors are written again: they are still the newest, and live on.
        """
        if await self._read_new_bars(as_of):
            self._compute()
        if self._written:
            await self._online.write_features(self._written)
        return self._newest

    async def _read_new_bars(self, as_of: datetime) -> bool:
        keep = self._view.warmup_bars + self._rows
        # The last bar to be read opens at this instant at the latest, and so closes by `as_of`.
        end = as_of - self._interval + timedelta(microseconds=1)
        last = await self._ticks.last_ts(self._market_id, self._symbols, self._interval, end)
        grown = False
        for symbol, newest in last.items():
            known = self._window.get(symbol)
            if known is not None and to_datetime(known.ts[-1]) >= newest:
                continue
            if known is None:
                tail = await self._ticks.read_tail(self._market_id, (symbol,), self._interval, keep, end)
                self._window[symbol] = tail[symbol]
            else:
                start = to_datetime(known.ts[-1]) + self._interval
                new = await self._ticks.read_bars(self._market_id, symbol, self._interval, start, end)
                self._window[symbol] = known.then(new).tail(keep)
            grown = True
        return grown

    def _compute(self) -> None:
        panel = Panel.align({s: self._window[s] for s in self._symbols if s in self._window})
        rows = min(self._rows, len(panel))
        features = compute_tail(self._view, panel, rows)
        event_time = to_datetime(panel.closes_at[-1])
        present = ~np.isnan(panel.close[-1])
        # A symbol without a bar in the newest row keeps its older vector, which grows stale.
        self._written = [
            FeatureWindow(symbol, event_time, self._view.names, features[:, column])
            for column, symbol in enumerate(panel.symbols)
            if present[column]
        ]
        self._newest = Materialised(event_time, tuple(w.symbol for w in self._written))
