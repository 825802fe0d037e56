"""The one way bars enter the tick store: history and feed, at once or as time goes on.

Validate (`screening.py`), normalise, write and account (`intake.py`); holes are `backfill.py`'s.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.market.bars import Bars, to_datetime
from levibot.market.intake import Account, Intake
from levibot.market.screening import Screened, between
from levibot.market.sources import Source

CHUNK_BARS = 20_000
_ONE_US = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Ingested:
    """What one pass brought in. newest_close: of the newest stored bar that is finished, None without any."""

    account: Account
    newest_close: datetime | None

    @property
    def n_new(self) -> int:
        return self.account.n_new


class Ingest:
    """Brings the tick store up to an instant: reads what it lacks from the source, symbol by symbol.

    chunk_bars: how many bars of each symbol are read and stored together.
    What the store holds decides what is read, so a killed pass goes on where it stopped. Remembered is only
    how far back each symbol was completed: a listing later than that is not looked for again at every bar.
    """

    def __init__(
        self,
        source: Source,
        intake: Intake,
        symbols: Sequence[str],
        *,
        chunk_bars: int = CHUNK_BARS,
    ) -> None:
        self._source = source
        self._intake = intake
        self._ticks = intake.store
        self._market_id = intake.market_id
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
        Rows that are no bars go to quarantine, and do not hold the others up.
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
        account = Account()
        for symbol, oldest in (await self._begin_after(first, unsure)).items():
            # To the oldest bar and not only to the clock: a hole between them would never be filled.
            early = await asyncio.to_thread(self._source.read, symbol, first, oldest)
            total[symbol] += len(early.sound)
            if progress:
                progress(symbol, total[symbol])
            account += await self._intake.take_bars([early])
        self._complete_since |= dict.fromkeys(unsure, first)

        since = {s: stored[s] + interval if s in stored else first for s in self._symbols}
        at = min(since.values())
        while at <= end:
            # Stored stretch by stretch, so that a long way that is cut short goes on where it was.
            until = min(at + self._chunk, end + interval)
            read: list[Screened[Bars]] = []
            for symbol in self._symbols:
                if since[symbol] < until:
                    begin = max(at, since[symbol])
                    rows = await asyncio.to_thread(self._source.read, symbol, begin, until)
                    # What is not finished is neither a bar nor a fault yet.
                    read.append(between(rows, begin, min(until, end + _ONE_US)))
                    total[symbol] += len(read[-1].sound)
                    if progress:
                        progress(symbol, total[symbol])
            account += await self._intake.take_bars(read)
            at = until
        # The store may hold later bars of a recorded market than the clock has reached.
        finished = await self._ticks.last_ts(
            self._market_id, self._symbols, interval, as_of - interval + _ONE_US
        )
        newest_close = max(finished.values()) + interval if finished else None
        return Ingested(account, newest_close)

    async def _begin_after(self, first: datetime, symbols: Sequence[str]) -> dict[str, datetime]:
        """The oldest stored bar of each symbol whose bars begin later than `first`."""
        if not symbols:
            return {}
        interval = self._source.interval
        reaching = await self._ticks.last_ts(self._market_id, symbols, interval, first + interval)
        late = [symbol for symbol in symbols if symbol not in reaching]
        stored = {s: await self._ticks.read_bars(self._market_id, s, interval) for s in late}
        return {symbol: to_datetime(bars.ts[0]) for symbol, bars in stored.items()}
