"""The way of trades into the tick store: the same steps as for bars, from a recording or as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from levibot.market.intake import Account, Intake
from levibot.market.screening import Screened
from levibot.market.tick_screening import screen_again
from levibot.market.ticks import Ticks, joined
from levibot.market.trades_parquet import ParquetTrades
from levibot.resilience.guard import Guard

# Live batches are small and many, and a write costs as much as some hundred trades.
PAUSE_S = 0.2
MAX_WRITE_ROWS = 20_000
MAX_WAITING_BATCHES = 64


async def load_trades(
    recorded: ParquetTrades,
    symbol: str,
    intake: Intake,
    progress: Callable[[str, int], None] | None = None,
) -> Account:
    """Store all recorded trades of a symbol.

    Done again, it completes what was cut short, and adds nothing twice. The next batch is read and screened
    while one is stored. progress: called with the symbol and its number of rows so far.
    Raises DataError, SourceUnavailable or StoreUnavailable; the batches stored before stay.
    """
    account = Account()
    batches = recorded.batches(symbol)
    reading = asyncio.create_task(_read(batches))
    try:
        while (rows := await reading) is not None:
            reading = asyncio.create_task(_read(batches))
            account += await intake.take_ticks([rows])
            if progress:
                progress(symbol, account.n_read)
    finally:
        # A thread cannot be cancelled: it ends with its batch.
        await asyncio.gather(reading, return_exceptions=True)
    return account


class TradeIngest:
    """Stores live trades: what has come while one write was under way is the next one.

    guard: of the store; a write is safe to repeat. What waits is bounded: a feed that is not read any more
    has to bound what it holds itself. State: the account of what came so far.
    """

    def __init__(self, intake: Intake, guard: Guard, *, pause_s: float = PAUSE_S) -> None:
        self._intake = intake
        self._guard = guard
        self._pause_s = pause_s
        self.account = Account()

    async def follow(self, batches: AsyncIterator[Ticks]) -> None:
        """Store batch after batch until they end, or a write fails: then the last ones are not stored.

        Raises StoreError, and whatever `batches` raises once all that came before is stored.
        """
        waiting: asyncio.Queue[Ticks | None] = asyncio.Queue(MAX_WAITING_BATCHES)
        pump = asyncio.create_task(_pump(batches, waiting))
        try:
            while (batch := await waiting.get()) is not None:
                taken = [batch]
                is_over = False
                while sum(map(len, taken)) < MAX_WRITE_ROWS and not waiting.empty():
                    batch = waiting.get_nowait()
                    if batch is None:
                        is_over = True
                        break
                    taken.append(batch)
                await self._store(taken)
                if is_over:
                    break
                await asyncio.sleep(self._pause_s)
            await pump
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _store(self, batches: list[Ticks]) -> None:
        pieces: dict[str, list[Ticks]] = {}
        for batch in batches:
            pieces.setdefault(batch.symbol, []).append(batch)
        sets = [screen_again(joined(parts), "the feed") for parts in pieces.values()]
        self._intake.begin()
        self.account += await self._guard.call(self._intake.take_ticks, sets)


async def _pump(batches: AsyncIterator[Ticks], waiting: asyncio.Queue[Ticks | None]) -> None:
    """Pass batches on, and None after the last one, also where that is an error."""
    try:
        async for batch in batches:
            await waiting.put(batch)
    except Exception:
        await waiting.put(None)
        raise
    await waiting.put(None)


async def _read(batches: Iterator[Screened[Ticks]]) -> Screened[Ticks] | None:
    return await asyncio.to_thread(next, batches, None)
