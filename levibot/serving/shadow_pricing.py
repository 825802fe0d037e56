"""Takes the shadow accounts through the bars as they finish."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from levibot.market.bars import Panel, to_datetime
from levibot.stores.ticks import TickStore
from levibot.trading.costs import Costs
from levibot.trading.shadow import Book, Decision, Priced, price, settled_rows

# What is not there so many bars after its time is not waited for.
GRACE_BARS = 2
# Bars of one transaction: it is short, and a long absence is caught up in pieces.
MAX_ROWS = 500
_NEVER = datetime.min.replace(tzinfo=UTC)


class ShadowPricing:
    """Prices what is settled, each bar once. State: none; the accounts are the store's.

    book_id: of the accounts, where they are not those of the market itself; then the equity after each bar is
    kept too.
    """

    def __init__(
        self,
        ticks: TickStore,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
        costs: Costs | None = None,
        *,
        book_id: str | None = None,
    ) -> None:
        self._ticks = ticks
        self._market_id = market_id
        self._book_id = book_id or market_id
        self._symbols = tuple(symbols)
        self._interval = interval
        self._costs = costs or Costs()

    async def turn(self, now: datetime, *, waits: bool = False) -> Priced | None:
        """Price the rows that are settled at `now`; None where there are none.

        A row is settled when all its bars and decisions are there. GRACE_BARS later it is priced with what
        there is, unless `waits`: who has just come back gives the others time to come back too.
        """
        shadow = self._ticks.shadow
        stands_at = await shadow.reach(self._book_id)
        if stands_at is None:
            return None
        panel = await self._panel(stands_at, now)
        if panel is None:
            return None
        decided: dict[datetime, set[str]] = defaultdict(set)
        for decision in await shadow.decisions(self._book_id, stands_at, now):
            decided[decision.as_of].add(decision.symbol)
        n_rows = settled_rows(
            panel,
            {as_of: frozenset(symbols) for as_of, symbols in decided.items()},
            stands_at,
            _NEVER if waits else now - GRACE_BARS * self._interval,
        )
        if n_rows == 0:
            return None
        rows = panel.rows(slice(0, n_rows))

        def step(book: Book, decisions: list[Decision]) -> Priced:
            return price(book, rows, stands_at, decisions, self._costs)

        end = to_datetime(rows.closes_at[-1])
        keeps_bars = self._book_id != self._market_id
        return await shadow.advance(self._book_id, stands_at, end, step, keeps_bars=keeps_bars)

    async def _panel(self, stands_at: datetime, now: datetime) -> Panel | None:
        """The first MAX_ROWS rows that open at `stands_at` or later and are finished."""
        bars = {}
        for symbol in self._symbols:
            found = await self._ticks.read_bars(self._market_id, symbol, self._interval, stands_at)
            bars[symbol] = found.closed_by(now)
        if not any(len(of) for of in bars.values()):
            return None
        panel = Panel.align(bars)
        return panel.rows(slice(0, MAX_ROWS))
