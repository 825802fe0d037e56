"""The one way bars enter the tick store: history and feed, at once or as time goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.market.sources import Source
from levibot.stores.ticks import TickStore


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one pass brought in. newest_close: of the newest stored bar that is finished, None without any."""

    n_bars: int
    n_new: int
    newest_close: datetime | None


class Ingest:
    """Brings the tick store up to an instant: reads what it lacks from the source, symbol by symbol.

    Nothing is remembered that the store does not know, so a killed pass goes on where it stopped.
    """

    def __init__(self, source: Source, ticks: TickStore, market_id: str, symbols: Sequence[str]) -> None:
        self._source = source
        self._ticks = ticks
        self._market_id = market_id
        self._symbols = tuple(symbols)

    async def up_to(
        self,
        as_of: datetime,
        start: datetime | None = None,
        progress: Callable[[str, int], None] | None = None,
    ) -> Ingested:
        """Store every bar that is finished at `as_of` and opens at `start` or later (default: all).

        progress: called with each symbol and its number of bars.
        Raises DataError, SourceUnavailable or StoreUnavailable; what was stored before stays.
        """
        interval = self._source.interval
        first, last = await asyncio.to_thread(self._source.extent)
        first = first if start is None else max(first, start)
        # A bar that opens later than this is not finished yet.
        end = as_of - interval if last is None else min(as_of, last) - interval
        stored = await self._ticks.last_ts(self._market_id, self._symbols, interval)
        bars = []
        for symbol in self._symbols:
            since = stored[symbol] + interval if symbol in stored else first
            if since <= end:
                read = await asyncio.to_thread(self._source.bars, symbol, since, end + interval)
                read = read.closed_by(as_of)
                bars.append(read)
                if progress:
                    progress(symbol, len(read))
        n_new = await self._ticks.write_many(self._market_id, [b for b in bars if len(b)]) if bars else 0
        # The store may hold later bars of a recorded market than the clock has reached.
        finished = await self._ticks.last_ts(
            self._market_id, self._symbols, interval, as_of - interval + timedelta(microseconds=1)
        )
        newest_close = max(finished.values()) + interval if finished else None
        return Ingested(sum(len(b) for b in bars), n_new, newest_close)
