"""Fills the holes of stored series from their source, and remembers what the source itself does not have."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.market.intake import Account, Intake
from levibot.market.sources import Source
from levibot.stores.holes import Hole


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What one pass did about holes between stored bars.

    n_found: holes that no pass of this process knew. n_filled: bars stored in holes. n_lacking: bars that the
    source does not have either, of the holes that it was asked for, which are never asked for again.
    n_waiting: holes that a later pass will ask for.
    """

    account: Account
    n_found: int
    n_asked: int
    n_lacking: int
    n_waiting: int

    @property
    def n_filled(self) -> int:
        return self.account.n_new


class Backfill:
    """Finds each hole once and asks the source for it once, with exactly its range.

    State: how far each symbol was searched, and the holes that were found and not asked for yet. It outlives
    the store's connection, so that an outage of the market is not asked for again at every bar.
    """

    def __init__(self, source: Source, symbols: Sequence[str]) -> None:
        self._source = source
        self._symbols = tuple(symbols)
        self._searched: dict[str, datetime] = {}
        self._waiting: deque[Hole] = deque()

    @property
    def has_waiting(self) -> bool:
        """Whether there are holes that no pass has asked for yet."""
        return bool(self._waiting)

    async def fill(self, intake: Intake, as_of: datetime, max_asked: int | None = None) -> Backfilled:
        """Fill the holes between bars that are finished at `as_of`, at most `max_asked` of them.

        Raises DataError, SourceUnavailable, SourceError or StoreUnavailable; what was filled before stays,
        and the hole that failed is asked for again after the others.
        """
        interval = self._source.interval
        n_found = 0
        async for found in self._walk(intake, as_of):
            self._waiting += found
            n_found += len(found)
        account = Account()
        n_asked = n_lacking = 0
        while self._waiting and n_asked != max_asked:
            hole = self._waiting[0]
            # Only one that is done leaves the line; where it goes wrong the others come first next time.
            self._waiting.rotate(-1)
            rows = await asyncio.to_thread(self._source.read, hole.symbol, hole.start, hole.end)
            account += await intake.take_bars([rows])
            self._waiting.pop()
            n_asked += 1
            n_lacking += (hole.end - hole.start) // interval - len(rows.sound)
        return Backfilled(account, n_found, n_asked, n_lacking, len(self._waiting))

    async def search(self, intake: Intake, as_of: datetime) -> list[Hole]:
        """The holes that were not known yet, which are not asked for then. Errors as in `TickStore`."""
        found: list[Hole] = []
        async for holes in self._walk(intake, as_of):
            found += holes
        return found

    async def _walk(self, intake: Intake, as_of: datetime) -> AsyncIterator[list[Hole]]:
        """New holes, stretch by stretch: a walk that is cut short goes on where it was."""
        interval = self._source.interval
        end = as_of - interval + timedelta(microseconds=1)
        before = None
        while self._searched != before:
            before = self._searched
            holes, self._searched = await intake.store.holes.bars(
                intake.market_id, self._symbols, interval, before, end
            )
            yield holes
