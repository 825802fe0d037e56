"""A live market: finished bars of an exchange, through ccxt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from levibot.clock import Clock
from levibot.errors import SourceError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.market.bars import FIELDS, Bars
from levibot.market.screening import Screened, screen_bars
from levibot.market.validation import check_bars, check_request, empty_bars
from levibot.settings import INTERVALS, SourceName

PAGE_BARS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ExchangeSource:
    """Spot bars of a ccxt exchange. `BTCUSDT` stands for its spot market BTC/USDT.

    clock: tells which bars are finished; one ahead of the exchange's would let an unfinished bar pass.
    base_url: scheme, host and port to call instead of the exchange's own (a mirror, or a test's server).
    timeout_s: limit of one request; there is no retry. Calls from several threads wait for each other.
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
    ) -> None:
        self._exchange_id = exchange_id
        self._symbols = symbols
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._client = _client(exchange_id, base_url, timeout_s)
        self._timeframe = next((name for name, length in INTERVALS.items() if length == interval), "")
        if self._timeframe not in (self._client.timeframes or {}):
            raise UsageError(f"The exchange {exchange_id} has no bars of {interval}.", hint="Take 1h.")
        self._where = f"the answer of {exchange_id}"
        self._pairs: dict[str, str] = {}

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
        """Close the connections."""
        self._client.session.close()

    def extent(self) -> tuple[datetime, datetime | None]:
        """The oldest bar's open over all symbols, without end. One request a symbol."""
        first = [self._page(symbol, _EPOCH, 1) for symbol in self._symbols]
        opens = [rows[0][0] for rows in first if rows]
        if not opens:
            raise SourceError(f"The exchange {self._exchange_id} has no bars of {', '.join(self._symbols)}.")
        return _EPOCH + timedelta(milliseconds=min(opens)), None

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

    def _columns(self, symbol: str, start: datetime, end: datetime) -> dict[str, npt.NDArray[Any]]:
        """The rows of a range as they came; no column when there is no row."""
        check_request(symbol, self._symbols, start, end, f"The exchange {self._exchange_id}")
        # The last bar that may be in the answer opens before this.
        stop = min(end, self._clock.now() - self._interval + timedelta(microseconds=1))
        rows: list[list[Any]] = []
        at = start
        while at < stop:
            page = [row for row in self._page(symbol, at, PAGE_BARS) if row[0] >= _milliseconds(at)]
            rows += [row for row in page if _EPOCH + timedelta(milliseconds=row[0]) < stop]
            # An empty page is a stretch without bars (some exchanges answer so before the listing).
            at = (
                _EPOCH + timedelta(milliseconds=page[-1][0]) + self._interval
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

    def _page(self, symbol: str, since: datetime, limit: int) -> list[list[Any]]:
        with self._lock, _translated(self._exchange_id, symbol):
            pair = self._pair(symbol)
            return list(
                self._client.fetch_ohlcv(pair, self._timeframe, since=_milliseconds(since), limit=limit)
            )

    def _pair(self, symbol: str) -> str:
        if not self._pairs:
            markets = self._client.load_markets()
            self._pairs = {
                f"{market['base']}{market['quote']}": pair
                for pair, market in markets.items()
                if market.get("spot") and market.get("active") is not False
            }
        if not self._pairs:
            raise _unreadable(self._exchange_id)
        if symbol not in self._pairs:
            raise _unknown(self._exchange_id, symbol)
        return self._pairs[symbol]


def _client(exchange_id: str, base_url: str | None, timeout_s: float) -> Any:
    # ccxt takes a second to import; only a live market pays for it.
    import ccxt

    if exchange_id not in ccxt.exchanges:
        raise UsageError(
            f"There is no exchange {exchange_id!r}.",
            hint="Set LEVIBOT_EXCHANGE to an id of ccxt, like binance or kraken.",
        )
    client = getattr(ccxt, exchange_id)({"timeout": int(timeout_s * 1000), "enableRateLimit": True})
    client.options["maxRetriesOnFailure"] = 0
    client.enableLastJsonResponse = True
    client.parse_ohlcvs = _strict(client, client.parse_ohlcvs)
    fetch_markets = client.options.get("fetchMarkets")
    # Futures have their own endpoints; a spot market needs none of them.
    if isinstance(fetch_markets, dict) and "spot" in (types := fetch_markets.get("types") or ()):
        fetch_markets["types"] = {k: k == "spot" for k in types} if isinstance(types, dict) else ["spot"]
    if base_url is not None:
        client.urls["api"] = _moved(client.urls["api"], base_url.rstrip("/"))
    return client


def _strict(client: Any, parse: Callable[..., list[list[Any]]]) -> Callable[..., list[list[Any]]]:
    """ccxt's parser of bars, which takes an answer that it cannot read for no bars, made to refuse it."""

    def parse_bars(answer: Any, market: Any = None, *args: Any, **kwargs: Any) -> list[list[Any]]:
        if client.last_json_response is None or not isinstance(answer, list):
            raise _unreadable(client.id)
        for row in answer:
            if not isinstance(client.parse_ohlcv(row, market)[0], int):
                raise _unreadable(client.id)
        return parse(answer, market, *args, **kwargs)

    return parse_bars


def _moved(urls: Any, base_url: str) -> Any:
    """The same tree of addresses on another host."""
    if isinstance(urls, dict):
        return {name: _moved(url, base_url) for name, url in urls.items()}
    return base_url + urlsplit(urls).path


@contextmanager
def _translated(exchange_id: str, symbol: str) -> Iterator[None]:
    """Turn what ccxt raises into our errors."""
    import ccxt

    try:
        yield
    except ccxt.OperationFailed as exc:
        raise SourceUnavailable(
            f"The exchange {exchange_id} does not answer ({type(exc).__name__}: {_short(exc)}).",
            hint="It is tried again at the next bar; look at the network and at the exchange's status page.",
        ) from exc
    except ccxt.BadSymbol as exc:
        raise _unknown(exchange_id, symbol) from exc
    except ccxt.BaseError as exc:
        raise SourceError(
            f"The exchange {exchange_id} refuses {symbol} ({type(exc).__name__}: {_short(exc)})."
        ) from exc
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        # ccxt parses without checking: a body of another shape ends in one of these.
        raise _unreadable(exchange_id) from exc


def _unknown(exchange_id: str, symbol: str) -> UnknownSymbol:
    return UnknownSymbol(
        f"The exchange {exchange_id} has no spot market {symbol!r}.",
        hint="Write base and quote together, like BTCUSDT; see LEVIBOT_SYMBOLS.",
    )


def _unreadable(exchange_id: str) -> SourceError:
    return SourceError(
        f"The exchange {exchange_id} answers with something that is no market data.",
        hint="A proxy or a maintenance page may stand before it.",
    )


def _short(exc: BaseException) -> str:
    return str(exc).splitlines()[0][:200] if str(exc) else "no message"


def _milliseconds(instant: datetime) -> int:
    # Rounded up: a bar that opens before `instant` is not asked for.
    return -((_EPOCH - instant) // timedelta(milliseconds=1))
