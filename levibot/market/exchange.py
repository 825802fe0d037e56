"""A live market: finished bars of an exchange, through the guarded client."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from levibot.clock import Clock
from levibot.errors import SourceError, UnknownSymbol, UsageError
from levibot.market.bars import FIELDS, Bars, to_datetime64
from levibot.market.exchange_answers import EPOCH, BarRow
from levibot.market.exchange_client import PAGE_ROWS, ExchangeClient, to_milliseconds
from levibot.market.funding_history import TOLD_WITHIN, funding_history
from levibot.market.screening import Screened, screen_bars
from levibot.market.side_series import FUNDING_RATE, SideSeries
from levibot.market.validation import check_bars, check_request, empty_bars
from levibot.settings import INTERVALS, SourceName

T = TypeVar("T")

PAGE_BARS = PAGE_ROWS


class ExchangeSource:
    """Spot bars of a ccxt exchange. `BTCUSDT` stands for its spot market BTC/USDT.

    The blocking face of an `ExchangeClient`, which runs in a loop on a thread of its own; calls from several
    threads run side by side. clock: tells which bars are finished; one ahead of the exchange's would let an
    unfinished bar pass. base_url: scheme, host and port to call instead of the exchange's own. timeout_s: of
    one attempt, of which there are at most `attempts` where a repeat may help.
    Raises UsageError on an unknown exchange id, or an interval that the exchange does not have.
    """

    def __init__(
        self,
        exchange_id: str,
        symbols: tuple[str, ...],
        interval: timedelta,
        clock: Clock,
        *,
        base_url: str | None = None,
        timeout_s: float = 10.0,
        attempts: int = 3,
    ) -> None:
        self._exchange_id = exchange_id
        self._symbols = symbols
        self._interval = interval
        self._clock = clock
        self._client = ExchangeClient(
            exchange_id, clock, base_url=base_url, timeout_s=timeout_s, attempts=attempts
        )
        self._perpetual = ExchangeClient(
            exchange_id, clock, kind="perpetual", base_url=base_url, timeout_s=timeout_s, attempts=attempts
        )
        self._thread = _LoopThread(f"exchange {exchange_id}")
        # Commands end without closing their source; its connections end in order all the same.
        closing = functools.partial(_close, self._client, self._perpetual)
        self._end = weakref.finalize(self, self._thread.end, closing)
        self._timeframe = next((name for name, length in INTERVALS.items() if length == interval), "")
        if self._timeframe not in self._client.timeframes:
            raise UsageError(f"The exchange {exchange_id} has no bars of {interval}.", hint="Take 1h.")
        self._where = f"the answer of {exchange_id}"

    @property
    def name(self) -> SourceName:
        return "exchange"

    @property
    def interval(self) -> timedelta:
        return self._interval

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._symbols

    def close(self) -> None:
        """Close the connections, for good."""
        self._end()

    def extent(self) -> tuple[datetime, datetime | None]:
        """The oldest bar's open over all symbols, without end. One request a symbol."""
        first = [self._page(symbol, EPOCH, 1) for symbol in self._symbols]
        opens = [rows[0][0] for rows in first if rows]
        if not opens:
            raise SourceError(f"The exchange {self._exchange_id} has no bars of {', '.join(self._symbols)}.")
        return EPOCH + timedelta(milliseconds=min(opens)), None

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        """The finished bars that open in [start, end): those whose close is not after the clock's now.

        Raises UnknownSymbol, SourceUnavailable (no connection, timeout, maintenance, rate limit), SourceError
        (the exchange refuses, or answers with something that is no bars) and DataError.
        """
        columns = self._columns(symbol, start, end)
        return check_bars(symbol, self._interval, columns, self._where) if columns else self._none(symbol)

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        """As `bars`, with the rows that are no bars beside them."""
        columns = self._columns(symbol, start, end)
        if not columns:
            return Screened.passed(symbol, self._none(symbol))
        return screen_bars(symbol, self._interval, columns, self._where)

    def side_series(self, names: Sequence[str], start: datetime, end: datetime) -> list[SideSeries]:
        """What the perpetual contract of each symbol paid; none of a symbol that has no such contract."""
        if FUNDING_RATE not in names or not self._perpetual.has_funding_rates:
            return []
        return [series for symbol in self._symbols if (series := self._funding(symbol, start, end))]

    def _funding(self, symbol: str, start: datetime, end: datetime) -> SideSeries | None:
        history = funding_history(self._perpetual, symbol, start - TOLD_WITHIN, end - TOLD_WITHIN)
        try:
            rates = self._thread.run(history)
        except UnknownSymbol:
            return None
        paid_at = np.array([to_datetime64(rate.ts) for rate in rates], "datetime64[us]")
        value = np.array([rate.rate for rate in rates], np.float64)
        known_at = np.array([to_datetime64(rate.ts + TOLD_WITHIN) for rate in rates], "datetime64[us]")
        return SideSeries.of_observations(FUNDING_RATE, symbol, paid_at, known_at, value)

    def _columns(self, symbol: str, start: datetime, end: datetime) -> dict[str, npt.NDArray[Any]]:
        """The rows of a range as they came; no column when there is no row."""
        check_request(symbol, self._symbols, start, end, f"The exchange {self._exchange_id}")
        # The last bar that may be in the answer opens before this.
        stop = min(end, self._clock.now() - self._interval + timedelta(microseconds=1))
        rows: list[BarRow] = []
        at = start
        while at < stop:
            page = [row for row in self._page(symbol, at, PAGE_BARS) if row[0] >= to_milliseconds(at)]
            rows += [row for row in page if EPOCH + timedelta(milliseconds=row[0]) < stop]
            # An empty page is a stretch without bars (some exchanges answer so before the listing).
            at = (
                EPOCH + timedelta(milliseconds=page[-1][0]) + self._interval
                if page
                else at + PAGE_BARS * self._interval
            )
        if not rows:
            return {}
        # ccxt gives None where the exchange sent no number: it becomes NaN, which is no price.
        columns = {f: np.array([row[i] for row in rows], np.float64) for i, f in enumerate(FIELDS, start=1)}
        return {"ts": np.array([row[0] for row in rows], np.int64).astype("datetime64[ms]"), **columns}

    def _none(self, symbol: str) -> Bars:
        return empty_bars(symbol, self._interval)

    def _page(self, symbol: str, since: datetime, limit: int) -> list[BarRow]:
        return self._thread.run(self._client.bar_rows(symbol, self._timeframe, since, limit))


async def _close(*clients: ExchangeClient) -> None:
    for client in clients:
        await client.close()


class _LoopThread:
    """An event loop on a thread, begun at the first call: a client's connections outlive the call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_ended = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, awaited in the loop. Not to be called from the loop itself.

        Raises UsageError after the end.
        """
        loop = self._begun()
        if loop is None:
            work.close()
            raise UsageError(f"The source {self._name} is closed.", hint="Open another one.")
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def end(self, closing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `closing()` in the loop, if it ever began, and end it. A second end does nothing."""
        with self._lock:
            self._has_ended = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return

        async def close_and_stop() -> None:
            try:
                await closing()
            finally:
                loop.stop()

        asyncio.run_coroutine_threadsafe(close_and_stop(), loop)
        # A source may be collected in any thread, in its own too.
        if thread is not threading.current_thread():
            thread.join()

    def _begun(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None and not self._has_ended:
                self._loop = asyncio.new_event_loop()
                # A daemon, so that the end of the process need not wait for it: `weakref.finalize` ends it.
                self._thread = threading.Thread(
                    target=_run_until_stopped, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop


def _run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
