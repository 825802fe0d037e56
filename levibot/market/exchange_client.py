"""The one guarded way to an exchange: every call of ccxt, with a time-out, a retry and a circuit breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from levibot.clock import Clock
from levibot.errors import SourceUnavailable
from levibot.market.exchange_answers import (
    EPOCH,
    Answer,
    BarRow,
    bar_rows_of,
    book_of,
    days_of,
    funding_of,
    instant_of,
    pairs_of,
    rules_of,
    status_of,
    ticks_of,
    tops_of,
)
from levibot.market.exchange_records import (
    ClockSkew,
    DayStatistics,
    ExchangeStatus,
    FundingRate,
    MarketRules,
    OrderBook,
    TopOfBook,
)
from levibot.market.exchange_wire import MarketKind, open_wire, translated, unknown_symbol
from levibot.market.ticks import Ticks
from levibot.market.trade_stream import TradeStream
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.guard import Guard
from levibot.telemetry.metrics import DEFAULT, Metrics

T = TypeVar("T")

PAGE_ROWS = 1000


class ExchangeClient:
    """Markets of one kind at a ccxt exchange, for one event loop. `BTCUSDT` stands for BTC/USDT.

    base_url: scheme, host and port to call instead of the exchange's own (a mirror, or a test's server).
    timeout_s: for each attempt, with the wait that the exchange's own rate limit asks for. Repeated is only
    what a repeat may cure: no connection, time-out, rate limit, maintenance. shared: where processes tell
    each other that the exchange does not answer.
    Every call raises SourceUnavailable when the attempts are used up or the circuit is open, SourceError when
    the exchange refuses or answers with something else, and UnknownSymbol. The constructor raises UsageError
    on an unknown exchange.
    """

    def __init__(
        self,
        exchange_id: str,
        clock: Clock,
        *,
        kind: MarketKind = "spot",
        base_url: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 3,
        failure_threshold: int = 5,
        reset_s: float = 5.0,
        shared: CircuitBoard | None = None,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.exchange_id = exchange_id
        self._clock = clock
        self._kind: MarketKind = kind
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._wire: Any = open_wire(exchange_id, kind, base_url, timeout_s, clock)
        self._guard = Guard(
            # Other hosts than those of the spot markets: one may be away alone.
            f"exchange {exchange_id}" if kind == "spot" else f"exchange {exchange_id} {kind}",
            timeout_s=timeout_s,
            attempts=attempts,
            failure_threshold=failure_threshold,
            reset_s=reset_s,
            transient=(SourceUnavailable,),
            unavailable=SourceUnavailable,
            shared=shared,
            metrics=metrics,
        )
        self._pairs: dict[str, str] = {}
        self._loading = asyncio.Lock()

    @property
    def timeframes(self) -> frozenset[str]:
        """The intervals of which the exchange has bars, like 1h."""
        return frozenset(self._wire.timeframes or ())

    @property
    def has_funding_rates(self) -> bool:
        """Whether `funding_rates` can be asked."""
        return bool(self._wire.has.get("fetchFundingRateHistory"))

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def pairs(self) -> dict[str, str]:
        """ccxt's name of every symbol that is traded. Asked once."""
        async with self._loading:
            if not self._pairs:
                key = "spot" if self._kind == "spot" else "swap"
                self._pairs = await self._ask(
                    "its markets", lambda markets: pairs_of(markets, key), self._wire.load_markets
                )
            return self._pairs

    async def rules(self, symbol: str) -> MarketRules:
        """What an order must fulfil, and its fees; from the same answer as `pairs`."""
        pair = await self._pair(symbol)
        with translated(self.exchange_id, symbol):
            return rules_of(symbol, self._wire.market(pair))

    async def clock_skew(self) -> ClockSkew:
        """How far the exchange's clock is ahead of ours. The time of a failed attempt does not count."""
        sent_at = self._clock.now()

        async def fetch_time() -> Answer:
            nonlocal sent_at
            sent_at = self._clock.now()
            return await self._wire.fetch_time()

        theirs = await self._ask("its time", instant_of, fetch_time)
        received_at = self._clock.now()
        error = (received_at - sent_at) / 2
        skew = theirs - (sent_at + error)
        return ClockSkew(skew.total_seconds(), error.total_seconds(), received_at)

    async def status(self) -> ExchangeStatus:
        """Whether the exchange says that it works; maintenance is an answer, not an error."""
        return await self._ask(
            "its status",
            lambda answer: status_of(self.exchange_id, answer, self._clock.now()),
            self._wire.fetch_status,
        )

    async def bar_rows(self, symbol: str, timeframe: str, since: datetime, limit: int) -> list[BarRow]:
        """Bars that open at `since` or later, oldest first, the newest unfinished. At most `limit`."""
        pair = await self._pair(symbol)
        return await self._ask(
            symbol, bar_rows_of, self._wire.fetch_ohlcv, pair, timeframe, to_milliseconds(since), limit
        )

    async def trades_from(self, symbol: str, first_id: int, limit: int = PAGE_ROWS) -> Ticks:
        """The trades with ids from `first_id` on, in their order; none when there is none yet.

        Like all trades of an exchange not screened yet (`levibot/market/tick_screening.py`).
        """
        return await self._trades(symbol, None, limit, {"fromId": first_id})

    async def trades_since(self, symbol: str, since: datetime, limit: int = PAGE_ROWS) -> Ticks:
        """The first trades of the hour from `since` on, in their order."""
        return await self._trades(symbol, to_milliseconds(since), limit, {})

    async def newest_trades(self, symbol: str, limit: int = PAGE_ROWS) -> Ticks:
        """The last trades, in their order."""
        return await self._trades(symbol, None, limit, {})

    async def day_statistics(self, symbols: Sequence[str]) -> dict[str, DayStatistics]:
        """The last 24 hours of each symbol, in one request."""
        pairs = {symbol: await self._pair(symbol) for symbol in symbols}
        return await self._ask(
            "its tickers",
            lambda answer: days_of(answer, pairs, self._clock.now()),
            self._wire.fetch_tickers,
            list(pairs.values()),
        )

    async def tops_of_book(self, symbols: Sequence[str]) -> dict[str, TopOfBook]:
        """Best bid and ask of each symbol, in one request."""
        pairs = {symbol: await self._pair(symbol) for symbol in symbols}
        return await self._ask(
            "its best prices",
            lambda answer: tops_of(answer, pairs, self._clock.now()),
            self._wire.fetch_bids_asks,
            list(pairs.values()),
        )

    async def order_book(self, symbol: str, levels: int = 20) -> OrderBook:
        """The best `levels` of each side, or as many as there are."""
        pair = await self._pair(symbol)
        return await self._ask(
            symbol,
            lambda answer: book_of(symbol, answer, self._clock.now()),
            self._wire.fetch_order_book,
            pair,
            levels,
        )

    async def funding_rates(
        self, symbol: str, since: datetime, limit: int = PAGE_ROWS
    ) -> tuple[FundingRate, ...]:
        """What a perpetual paid from `since` on, oldest first; only of kind `perpetual`."""
        pair = await self._pair(symbol)
        return await self._ask(
            symbol,
            lambda rows: funding_of(symbol, rows),
            self._wire.fetch_funding_rate_history,
            pair,
            to_milliseconds(since),
            limit,
        )

    async def open_stream(self, symbols: Sequence[str], *, max_waiting: int = 10_000) -> TradeStream:
        """A websocket of its own for the trades of these symbols; it connects at its first `wait`.

        max_waiting: trades a symbol that wait to be taken. Raises UsageError where ccxt has no such stream.
        """
        pairs = {symbol: await self._pair(symbol) for symbol in symbols}
        wire: Any = open_wire(self.exchange_id, self._kind, self._base_url, self._timeout_s, self._clock)
        wire.options["tradesLimit"] = max_waiting
        # The markets are known: a reconnect must not ask for them again.
        wire.set_markets_from_exchange(self._wire)
        return TradeStream(wire, self.exchange_id, pairs)

    async def _trades(self, symbol: str, since_ms: int | None, limit: int, params: dict[str, Any]) -> Ticks:
        pair = await self._pair(symbol)
        return await self._ask(
            symbol,
            lambda rows: ticks_of(symbol, rows),
            self._wire.fetch_trades,
            pair,
            since_ms,
            limit,
            params,
        )

    async def _ask(
        self,
        what: str,
        read: Callable[[Answer], T],
        call: Callable[..., Awaitable[Answer]],
        *args: object,
    ) -> T:
        async def attempt() -> T:
            with translated(self.exchange_id, what):
                return read(await call(*args))

        return await self._guard.call(attempt)

    async def _pair(self, symbol: str) -> str:
        pairs = await self.pairs()
        if symbol not in pairs:
            raise unknown_symbol(self.exchange_id, symbol, self._kind)
        return pairs[symbol]


def to_milliseconds(instant: datetime) -> int:
    """Milliseconds since 1970, rounded up: what lies before `instant` is not asked for."""
    return -((EPOCH - instant) // timedelta(milliseconds=1))
