"""The trades of a live market without a hole: a websocket, and REST for what it did not bring."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import structlog

from levibot.clock import Clock
from levibot.errors import SourceError, SourceUnavailable, UsageError
from levibot.market.exchange_client import PAGE_ROWS, ExchangeClient
from levibot.market.ticks import Ticks
from levibot.market.trade_stream import TradeStream

# Exchanges whose (aggregate) trades are numbered one by one, so that a hole shows. See decision 17.
COUNTING_EXCHANGES = frozenset({"binance", "binanceus"})
# REST may be a moment behind the websocket.
REST_LAG_S = (0.1, 0.2, 0.4, 0.8, 1.6)
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """How the feed is doing. connected_since: None while it is not; problem: why, empty while it is.

    last_message_age_s: since the websocket last brought a trade of any symbol, None before the first.
    n_gaps: stretches that it did not bring; n_filled: their trades, read from REST; n_skipped: trades given
    up because a gap was too long; n_repeated: trades that came more than once.
    """

    connected_since: datetime | None
    last_message_age_s: float | None
    n_reconnects: int
    n_gaps: int
    n_filled: int
    n_skipped: int
    n_repeated: int
    problem: str


class TradeFeed:
    """Follows the aggregate trades of some symbols. State: the newest trade of each that was given out.

    newest_ids: of each symbol, the last trade that is stored already; the feed goes on after it. A symbol
    without one begins with the first trade at `since` or in the hour after it, or else with the next trade.
    silence_s: when a symbol had no message for so long, REST is asked whether there was a trade; if the
    websocket does not bring it within `grace_s`, the connection is taken for dead. longest_gap: a gap of more
    trades is given up, said and counted. max_waiting: how many trades of a symbol wait for a slow consumer.
    Beyond that the oldest are dropped, which is a gap like any other: what is held is bounded, and the
    consumer still gets each trade.
    Raises UsageError for an exchange whose trades are not counted.
    """

    def __init__(
        self,
        client: ExchangeClient,
        symbols: Sequence[str],
        clock: Clock,
        *,
        newest_ids: Mapping[str, int] | None = None,
        since: datetime | None = None,
        silence_s: float = 30.0,
        grace_s: float = 5.0,
        longest_gap: int = 2_000_000,
        max_waiting: int = 10_000,
        first_backoff_s: float = 0.5,
        longest_backoff_s: float = 30.0,
        jitter: random.Random | None = None,
    ) -> None:
        if client.exchange_id not in COUNTING_EXCHANGES:
            raise UsageError(
                f"The trades of {client.exchange_id} are not numbered one by one; a gap would not show.",
                hint=f"Take {' or '.join(sorted(COUNTING_EXCHANGES))}, or set LEVIBOT_TRADES=false.",
            )
        self._client = client
        self._symbols = tuple(symbols)
        self._clock = clock
        self._silence_s = silence_s
        self._grace_s = grace_s
        self._longest_gap = longest_gap
        self._max_waiting = max_waiting
        self._first_backoff_s = first_backoff_s
        self._longest_backoff_s = longest_backoff_s
        self._jitter = jitter or random.Random()
        self._newest = dict(newest_ids or {})
        self._since = since
        # Of each symbol: when the websocket last brought a trade, and the trade that it must bring, by when.
        self._heard: dict[str, float] = {}
        self._awaited: dict[str, tuple[int, float]] = {}
        self._connected_since: datetime | None = None
        self._last_message: datetime | None = None
        self._n_reconnects = self._n_gaps = self._n_filled = self._n_skipped = self._n_repeated = 0
        self._n_failures = 0
        self._problem = ""

    def status(self) -> FeedStatus:
        """How the feed is doing now."""
        last = self._last_message
        return FeedStatus(
            connected_since=self._connected_since,
            last_message_age_s=None if last is None else (self._clock.now() - last).total_seconds(),
            n_reconnects=self._n_reconnects,
            n_gaps=self._n_gaps,
            n_filled=self._n_filled,
            n_skipped=self._n_skipped,
            n_repeated=self._n_repeated,
            problem=self._problem,
        )

    async def batches(self) -> AsyncGenerator[Ticks, None]:
        """Batches of one symbol each, for ever: the ids of a symbol grow, without a hole, each once.

        Prices and sizes are the exchange's, not screened yet. Faults of the exchange are waited out, with
        growing pauses. Raises UnknownSymbol, and UsageError where ccxt has no such stream. One consumer at a
        time; close the generator to close the connection.
        """
        while True:
            wait_s: float | None = None
            stream: TradeStream | None = None
            try:
                async with aclosing(self._caught_up()) as missed:
                    async for batch in missed:
                        yield batch
                stream = await self._client.open_stream(self._symbols, max_waiting=self._max_waiting)
                async with aclosing(self._followed(stream)) as live:
                    async for batch in live:
                        yield batch
            except SourceError as exc:
                self._problem = str(exc)
                wait_s = exc.retry_after_s
                log.warning("the trade feed connects again", reason=exc.message)
            finally:
                self._connected_since = None
                if stream is not None:
                    await stream.close()
            self._n_reconnects += 1
            await asyncio.sleep(self._pause_s(wait_s))

    async def _caught_up(self) -> AsyncGenerator[Ticks, None]:
        """What was traded since the last trade that was given out."""
        for symbol in self._symbols:
            target = await self._newest_id(symbol)
            if symbol not in self._newest:
                self._newest[symbol] = await self._last_id_before(symbol, target)
            if self._newest[symbol] < target:
                self._n_gaps += 1
                async with aclosing(self._filled(symbol, target)) as pages:
                    async for page in pages:
                        yield page

    async def _followed(self, stream: TradeStream) -> AsyncGenerator[Ticks, None]:
        """What the websocket brings, until it fails."""
        loop = asyncio.get_running_loop()
        self._heard = dict.fromkeys(self._symbols, loop.time())
        self._awaited.clear()
        while True:
            arrived = stream.take()
            for symbol, ticks in arrived.items():
                self._hear(symbol, ticks, loop.time())
                async with aclosing(self._joined(symbol, ticks)) as pieces:
                    async for piece in pieces:
                        yield piece
            await self._check_silence(loop.time())
            if not arrived:
                await self._wait(stream, loop)

    async def _wait(self, stream: TradeStream, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the next trade, or for the next moment at which silence means something."""
        due = min(
            self._awaited[symbol][1] if symbol in self._awaited else self._heard[symbol] + self._silence_s
            for symbol in self._symbols
        )
        try:
            async with asyncio.timeout(max(0.01, due - loop.time())):
                await stream.wait()
        except TimeoutError:
            pass
        if stream.is_connected and self._connected_since is None:
            self._connected_since = self._clock.now()

    def _hear(self, symbol: str, ticks: Ticks, now_s: float) -> None:
        self._heard[symbol] = now_s
        self._last_message = self._clock.now()
        self._n_failures = 0
        self._problem = ""
        awaited = self._awaited.get(symbol)
        if awaited is not None and int(ticks.trade_id[-1]) >= awaited[0]:
            del self._awaited[symbol]

    async def _check_silence(self, now_s: float) -> None:
        """Raise SourceUnavailable when the websocket kept a trade back that REST knows."""
        for symbol in self._symbols:
            if symbol in self._awaited:
                missed, deadline = self._awaited[symbol]
                if now_s >= deadline:
                    raise SourceUnavailable(
                        f"The stream of {symbol} is silent: it did not bring trade {missed} within "
                        f"{self._silence_s + self._grace_s:g} s."
                    )
            elif now_s >= self._heard[symbol] + self._silence_s:
                newest = await self._newest_id(symbol)
                if newest > self._newest[symbol]:
                    self._awaited[symbol] = newest, now_s + self._grace_s
                else:
                    # Nobody trades.
                    self._heard[symbol] = now_s

    async def _joined(self, symbol: str, ticks: Ticks) -> AsyncGenerator[Ticks, None]:
        """The trades after the newest one, with what is missing between them."""
        is_counted = False
        while True:
            fresh = ticks.rows(ticks.trade_id > self._newest[symbol])
            if not is_counted:
                self._n_repeated += len(ticks) - len(fresh)
                is_counted = True
            if not len(fresh):
                return
            # The leading trades whose ids follow the newest one and each other.
            in_place = fresh.trade_id == self._newest[symbol] + 1 + np.arange(len(fresh))
            n_next = len(fresh) if in_place.all() else int(np.argmin(in_place))
            if n_next:
                yield self._given(fresh.rows(slice(0, n_next)))
                continue
            self._n_gaps += 1
            async with aclosing(self._filled(symbol, int(fresh.trade_id[0]) - 1)) as pages:
                async for page in pages:
                    yield page

    async def _filled(self, symbol: str, last_id: int) -> AsyncGenerator[Ticks, None]:
        """The trades up to at least `last_id`, from REST. Ids that REST leaves out are of no trade.

        Raises SourceUnavailable while REST does not reach that far.
        """
        gap = last_id - self._newest[symbol]
        # From 0 the way leads over no trade: the market had none when the feed began.
        if gap > self._longest_gap and self._newest[symbol] > 0:
            log.warning("a gap in the trades is too long", symbol=symbol, trades=gap, limit=self._longest_gap)
            self._n_skipped += gap
            self._newest[symbol] = last_id
        pauses = iter(REST_LAG_S)
        while self._newest[symbol] < last_id:
            page = await self._client.trades_from(symbol, self._newest[symbol] + 1)
            page = page.rows(page.trade_id > self._newest[symbol])
            if len(page):
                self._n_filled += len(page)
                yield self._given(page)
            if self._newest[symbol] < last_id and len(page) < PAGE_ROWS:
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise SourceUnavailable(
                        f"REST has the trades of {symbol} up to {self._newest[symbol]}, but not {last_id}."
                    )
                await asyncio.sleep(pause_s)

    def _given(self, ticks: Ticks) -> Ticks:
        # Before the consumer has it: a batch that is out must not come again.
        self._newest[ticks.symbol] = int(ticks.trade_id[-1])
        return ticks

    async def _last_id_before(self, symbol: str, newest_id: int) -> int:
        """The trade after which a feed without a stored one begins."""
        if self._since is None:
            return newest_id
        first = await self._client.trades_since(symbol, self._since, 1)
        return int(first.trade_id[0]) - 1 if len(first) else newest_id

    async def _newest_id(self, symbol: str) -> int:
        newest = await self._client.newest_trades(symbol, 1)
        return int(newest.trade_id[-1]) if len(newest) else 0

    def _pause_s(self, asked_s: float | None) -> float:
        longest_s = min(self._longest_backoff_s, self._first_backoff_s * 2.0**self._n_failures)
        self._n_failures = min(self._n_failures + 1, 30)
        return max(self._jitter.uniform(0.0, longest_s), asked_s or 0.0)
