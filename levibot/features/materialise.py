"""Brings the online store up to date with the tick store: the newest feature rows of every symbol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from levibot.errors import LeviBotError
from levibot.features.shards import Shard
from levibot.features.side_data import attach, own_times, read_side_series
from levibot.features.tail import Tail
from levibot.features.view import FeatureView
from levibot.market.bars import Bars, Panel, to_datetime
from levibot.market.side_series import SideSeries
from levibot.stores.online import FeatureWindow, OnlineStore
from levibot.stores.ticks import TickStore


@dataclass(frozen=True, slots=True)
class Materialised:
    """What one pass wrote: the close of the newest row and the symbols that have a vector there.

    waiting: those with bars whose shard gave no part of it. problems: why not, one sentence a shard.
    """

    event_time: datetime
    symbols: tuple[str, ...]
    waiting: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A shard's part of a cross-section. windows: of its symbols that have a bar in the newest row."""

    event_time: datetime
    windows: tuple[FeatureWindow, ...]


@dataclass(frozen=True, slots=True)
class OtherShard:
    """A shard somewhere else. part: what it computes as of the close of a bar; None when it knows no bars."""

    shard: Shard
    part: Callable[[datetime], Awaitable[Computed | None]]


class ShardWindow:
    """Keeps the bounded window of bars that the view needs, and nothing that the tick store does not know.

    Every symbol's bars are read, for what one symbol's features owe to the others. rows: how many newest
    feature rows a reader gets (the served model's window). shard: whose symbols are computed.
    """

    def __init__(
        self,
        ticks: TickStore,
        *,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
        view: FeatureView,
        rows: int,
        shard: Shard,
    ) -> None:
        self._ticks = ticks
        self._market_id = market_id
        self._symbols = tuple(symbols)
        self._interval = interval
        self._view = view
        self._tail = Tail(view, rows, shard)
        self._window: dict[str, Bars] = {}
        self._side_series: list[SideSeries] = []
        self._computed: Computed | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        """Those that have bars, in the order of the view's columns."""
        return tuple(symbol for symbol in self._symbols if symbol in self._window)

    @property
    def newest_close(self) -> datetime | None:
        """The close of the newest bar of any symbol."""
        if not self._window:
            return None
        return max(to_datetime(bars.ts[-1]) for bars in self._window.values()) + self._interval

    async def read(self, as_of: datetime) -> bool:
        """Read the bars that came since, finished at `as_of`; whether there were any."""
        keep = self._tail.n_rows
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
        if grown:
            self._computed = None
            await self._read_side_series()
        return grown

    async def _read_side_series(self) -> None:
        if self._view.side_series:
            panel = self._panel()
            self._side_series = await read_side_series(self._ticks, self._market_id, self._view, panel)

    def _panel(self) -> Panel:
        return Panel.align({symbol: self._window[symbol] for symbol in self.symbols})

    def compute(self) -> Computed | None:
        """The features of this shard's symbols at the newest bar; None without any bars."""
        if self._computed is None and self._window:
            panel = attach(self._panel(), self._side_series)
            times = own_times(self._view, panel, self._side_series)
            owned = self._tail.shard.owned(panel.symbols)
            features = self._tail.compute(panel)
            event_time = to_datetime(panel.closes_at[-1])
            # A symbol without a bar in the newest row keeps its older vector, which grows stale.
            present = {panel.symbols[column] for column in np.flatnonzero(~np.isnan(panel.close[-1]))}
            windows = (
                FeatureWindow(
                    symbol, event_time, self._view.names, features[:, column], times.get(symbol, {})
                )
                for column, symbol in enumerate(owned)
                if symbol in present
            )
            self._computed = Computed(event_time, tuple(windows))
        return self._computed


class Materialiser:
    """Writes the whole cross-section in one piece: its own shard's part, and the others' where there are any.

    A LeviBotError that another shard raises costs its symbols the pass and nothing else: it is asked again at
    the next one.
    """

    def __init__(self, own: ShardWindow, online: OnlineStore, others: Sequence[OtherShard] = ()) -> None:
        self._own = own
        self._online = online
        self._others = tuple(others)
        self._newest: Materialised | None = None
        self._written: list[FeatureWindow] = []

    async def refresh(self, as_of: datetime) -> Materialised | None:
        """Read new bars, compute, write the whole cross-section; returns what is online, None without bars.

        Bars that are not finished at `as_of` are not read, whatever the store holds. Without new bars the
        same vectors are written again: they are still the newest, and live on.
        """
        grown = await self._own.read(as_of)
        if grown or (self._newest is not None and self._newest.problems):
            self._newest, self._written = await self._compute()
        if self._written:
            await self._online.write_features(self._written)
        return self._newest

    async def _compute(self) -> tuple[Materialised | None, list[FeatureWindow]]:
        event_time = self._own.newest_close
        if event_time is None:
            return None, []
        # The others work in their own processes while this one does.
        asked = [asyncio.ensure_future(other.part(event_time)) for other in self._others]
        await asyncio.sleep(0)
        own = self._own.compute()
        windows = [] if own is None else list(own.windows)
        waiting: list[str] = []
        problems: list[str] = []
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for other, answer in zip(self._others, answers, strict=True):
            if isinstance(answer, Computed) and answer.event_time == event_time:
                windows += answer.windows
                continue
            if isinstance(answer, BaseException) and not isinstance(answer, LeviBotError):
                raise answer
            waiting += other.shard.owned(self._own.symbols)
            reason = answer if isinstance(answer, LeviBotError) else "it does not know the newest bars yet."
            problems.append(f"Shard {other.shard.index} has no part at {event_time.isoformat()}: {reason}")
        written = tuple(window.symbol for window in windows)
        return Materialised(event_time, written, tuple(waiting), tuple(problems)), windows
