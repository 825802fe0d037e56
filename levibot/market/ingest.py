"""The one way bars enter the tick store: history and feed, at once or as time goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.market.bars import Bars, to_datetime
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

    What the store holds decides what is read, so a killed pass goes on where it stopped. Remembered is only
    how far back each symbol was completed: a listing later than that is not looked for again at every bar.
    """

    def __init__(self, source: Source, ticks: TickStore, market_id: str, symbols: Sequence[str]) -> None:
        self._source = source
        self._ticks = ticks
        self._market_id = market_id
        self._symbols = tuple(symbols)
        self._complete_since: dict[str, datetime] = {}
        self._extent: tuple[datetime, datetime | None] | None = None

    async def up_to(
        self,
        as_of: datetime,
        start: datetime | None = None,
        progress: Callable[[str, int], None] | None = None,
    ) -> Ingested:
        """Store every bar that is finished at `as_of` and is not stored yet.

        start: earlier bars are left out, and those between it and the oldest stored one are filled in.
        Without it a symbol goes on after its newest stored bar, or begins with the market.
        progress: called with each symbol and its number of bars.
        Raises DataError, SourceUnavailable or StoreUnavailable; what was stored before stays.
        """
        interval = self._source.interval
        if self._extent is None:
            # Asked once: on an exchange it costs a request a symbol.
            self._extent = await asyncio.to_thread(self._source.extent)
        first, last = self._extent
        first = first if start is None else max(first, start)
        # A bar that opens later than this is not finished yet.
        end = as_of - interval if last is None else min(as_of, last) - interval
        stored = await self._ticks.last_ts(self._market_id, self._symbols, interval)
        unsure = [s for s in stored if start and first < self._complete_since.get(s, as_of)]
        oldest = await self._begin_after(first, unsure)
        bars: list[Bars] = []
        for symbol in self._symbols:
            read = []
            if symbol in oldest:
                # To the oldest bar and not only to the clock: a hole between them would never be filled.
                read.append(await asyncio.to_thread(self._source.bars, symbol, first, oldest[symbol]))
            since = stored[symbol] + interval if symbol in stored else first
            if since <= end:
                new = await asyncio.to_thread(self._source.bars, symbol, since, end + interval)
                read.append(new.closed_by(as_of))
            bars += read
            if read and progress:
                progress(symbol, sum(len(b) for b in read))
        n_new = await self._ticks.write_many(self._market_id, [b for b in bars if len(b)]) if bars else 0
        self._complete_since |= dict.fromkeys(unsure, first)
        # The store may hold later bars of a recorded market than the clock has reached.
        finished = await self._ticks.last_ts(
            self._market_id, self._symbols, interval, as_of - interval + timedelta(microseconds=1)
        )
        newest_close = max(finished.values()) + interval if finished else None
        return Ingested(sum(len(b) for b in bars), n_new, newest_close)

    async def _begin_after(self, first: datetime, symbols: Sequence[str]) -> dict[str, datetime]:
        """The oldest stored bar of each symbol whose bars begin later than `first`."""
        if not symbols:
            return {}
        interval = self._source.interval
        reaching = await self._ticks.last_ts(self._market_id, symbols, interval, first + interval)
        late = [symbol for symbol in symbols if symbol not in reaching]
        stored = {s: await self._ticks.read_bars(self._market_id, s, interval) for s in late}
        return {symbol: to_datetime(bars.ts[0]) for symbol, bars in stored.items()}
