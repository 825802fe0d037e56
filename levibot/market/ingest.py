"""The one way bars enter the tick store: history and feed, at once or as time goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.market.bars import Bars, to_datetime
from levibot.market.sources import Source
from levibot.stores.ticks import TickStore

CHUNK_BARS = 20_000


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one pass brought in. newest_close: of the newest stored bar that is finished, None without any."""

    n_bars: int
    n_new: int
    newest_close: datetime | None


class Ingest:
    """Brings the tick store up to an instant: reads what it lacks from the source, symbol by symbol.

    chunk_bars: how many bars of each symbol are read and stored together.
    What the store holds decides what is read, so a killed pass goes on where it stopped. Remembered is only
    how far back each symbol was completed: a listing later than that is not looked for again at every bar.
    """

    def __init__(
        self,
        source: Source,
        ticks: TickStore,
        market_id: str,
        symbols: Sequence[str],
        *,
        chunk_bars: int = CHUNK_BARS,
    ) -> None:
        self._source = source
        self._ticks = ticks
        self._market_id = market_id
        self._symbols = tuple(symbols)
        self._chunk = chunk_bars * source.interval
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
        progress: called with each symbol and its number of bars so far.
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
        total: Counter[str] = Counter()
        n_new = 0
        for symbol, oldest in (await self._begin_after(first, unsure)).items():
            # To the oldest bar and not only to the clock: a hole between them would never be filled.
            early = await asyncio.to_thread(self._source.bars, symbol, first, oldest)
            total[symbol] += len(early)
            if progress:
                progress(symbol, total[symbol])
            n_new += await self._ticks.write_bars(self._market_id, early)
        self._complete_since |= dict.fromkeys(unsure, first)

        since = {s: stored[s] + interval if s in stored else first for s in self._symbols}
        at = min(since.values())
        while at <= end:
            # Stored stretch by stretch, so that a long way that is cut short goes on where it was.
            until = min(at + self._chunk, end + interval)
            bars: list[Bars] = []
            for symbol in self._symbols:
                if since[symbol] < until:
                    begin = max(at, since[symbol])
                    read = await asyncio.to_thread(self._source.bars, symbol, begin, until)
                    bars.append(read.closed_by(as_of))
                    total[symbol] += len(bars[-1])
                    if progress:
                        progress(symbol, total[symbol])
            n_new += await self._ticks.write_many(self._market_id, [b for b in bars if len(b)])
            at = until
        # The store may hold later bars of a recorded market than the clock has reached.
        finished = await self._ticks.last_ts(
            self._market_id, self._symbols, interval, as_of - interval + timedelta(microseconds=1)
        )
        newest_close = max(finished.values()) + interval if finished else None
        return Ingested(total.total(), n_new, newest_close)

    async def _begin_after(self, first: datetime, symbols: Sequence[str]) -> dict[str, datetime]:
        """The oldest stored bar of each symbol whose bars begin later than `first`."""
        if not symbols:
            return {}
        interval = self._source.interval
        reaching = await self._ticks.last_ts(self._market_id, symbols, interval, first + interval)
        late = [symbol for symbol in symbols if symbol not in reaching]
        stored = {s: await self._ticks.read_bars(self._market_id, s, interval) for s in late}
        return {symbol: to_datetime(bars.ts[0]) for symbol, bars in stored.items()}
