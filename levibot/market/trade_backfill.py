"""Fills the holes in stored trade ids from the exchange, where ids are counted one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from levibot.market.intake import Account, Intake
from levibot.market.tick_screening import screen_again
from levibot.market.ticks import Ticks
from levibot.stores.holes import TradeHole

# Of each symbol, how many of the newest ids are searched when a process begins.
RECENT_IDS = 500_000
# A longer hole is an outage of ours, and no matter of some requests.
LONGEST_HOLE = 100_000
PAGE_ROWS = 1000

# symbol, first id, limit: the trades from that id on, in their order.
TradesFrom = Callable[[str, int, int], Awaitable[Ticks]]


@dataclass(frozen=True, slots=True)
class TradesBackfilled:
    """What one pass did. n_found: holes; n_lacking: ids that the exchange does not have either, or which lie
    in a hole that is too long; n_waiting: holes left for a later pass."""

    account: Account
    n_found: int
    n_lacking: int
    n_waiting: int


class TradeBackfill:
    """Finds each hole once and asks for it once. State: how far each symbol was searched, and what waits."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = tuple(symbols)
        self._searched: dict[str, int] = {}
        self._waiting: deque[TradeHole] = deque()

    async def fill(self, intake: Intake, trades_from: TradesFrom, max_pages: int) -> TradesBackfilled:
        """Fill holes with at most `max_pages` requests; one that is begun is done in whole.

        Raises SourceUnavailable, SourceError or StoreUnavailable; the hole that failed comes after others.
        """
        n_found, n_lacking = await self._search(intake)
        account = Account()
        n_pages = 0
        while self._waiting and n_pages < max_pages:
            hole = self._waiting[0]
            self._waiting.rotate(-1)
            at, n_got = hole.first_id, 0
            while at <= hole.last_id:
                page = await trades_from(hole.symbol, at, PAGE_ROWS)
                n_pages += 1
                page = page.rows((page.trade_id >= at) & (page.trade_id <= hole.last_id))
                if not len(page):
                    break
                account += await intake.take_ticks([screen_again(page, "the exchange")])
                n_got += len(page)
                at = int(page.trade_id.max()) + 1
            self._waiting.pop()
            n_lacking += len(hole) - n_got
        return TradesBackfilled(account, n_found, n_lacking, len(self._waiting))

    async def _search(self, intake: Intake) -> tuple[int, int]:
        """Put new holes in line; returns how many there are, and how many ids are given up."""
        newest = await intake.store.ticks.last(intake.market_id, self._symbols)
        n_found = n_given_up = 0
        for symbol, (_, last_id) in newest.items():
            since = self._searched.get(symbol, max(0, last_id - RECENT_IDS))
            walk = await intake.store.holes.trades(intake.market_id, symbol, since)
            self._searched[symbol] = walk.last_id or since
            short = [hole for hole in walk.holes if len(hole) <= LONGEST_HOLE]
            n_found += walk.n_holes
            n_given_up += walk.n_missing - sum(map(len, short))
            self._waiting += short
        return n_found, n_given_up
