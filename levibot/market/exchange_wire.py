"""ccxt made strict: one exchange's endpoints, whose faults are ours and whose answers are never guessed."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from levibot.clock import Clock
from levibot.errors import SourceError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.market.retry_after import parse_retry_after

MarketKind = Literal["spot", "perpetual"]


def open_wire(
    exchange_id: str, kind: MarketKind, base_url: str | None, timeout_s: float, clock: Clock
) -> Any:
    """ccxt's object for an exchange: REST and, where ccxt has it, websocket. Connects at the first call.

    kind: only these markets are asked for. base_url: scheme, host and port to call instead of the exchange's
    own; a websocket goes there too. There is no retry in it. Raises UsageError on an unknown exchange.
    """
    # ccxt takes a second to import; only a live market pays for it.
    import ccxt.async_support
    import ccxt.pro

    if exchange_id not in ccxt.async_support.exchanges:
        raise UsageError(
            f"There is no exchange {exchange_id!r}.",
            hint="Set LEVIBOT_EXCHANGE to an id of ccxt, like binance or kraken.",
        )
    house = ccxt.pro if exchange_id in ccxt.pro.exchanges else ccxt.async_support
    wire = getattr(house, exchange_id)({"timeout": int(timeout_s * 1000), "enableRateLimit": True})
    wire.options["maxRetriesOnFailure"] = 0
    # A websocket that is not open by then is not tried on; whole seconds, as ccxt counts them.
    wire.options["ws"] = {**wire.options.get("ws", {}), "connectionTimeout": 1000 * math.ceil(timeout_s)}
    # It would wait for a quarter of a second at each close, for connections of its own that we close.
    wire.timeout_on_exit = 0
    wire.fetch = _decoded(exchange_id, wire.fetch)
    wire.handle_errors = _patient(exchange_id, clock, wire.handle_errors)
    wire.parse_ohlcv = _dated(exchange_id, wire.parse_ohlcv, 0)
    wire.parse_trade = _dated(exchange_id, wire.parse_trade, "timestamp")
    wire.parse_ohlcvs = _rows_only(exchange_id, wire.parse_ohlcvs)
    wire.parse_trades = _rows_only(exchange_id, wire.parse_trades)
    _ask_only_for(wire, kind)
    if base_url is not None:
        wire.urls["api"] = _moved(wire.urls["api"], base_url.rstrip("/"))
    return wire


@contextmanager
def translated(exchange_id: str, what: str) -> Iterator[None]:
    """Turn what ccxt raises into our errors. what: was asked, for the message."""
    import ccxt
    from aiohttp import ClientPayloadError

    try:
        yield
    except ccxt.OperationFailed as exc:
        raise _unavailable(exchange_id, f"{type(exc).__name__}: {_short(exc)}") from exc
    except ccxt.BadSymbol as exc:
        raise unknown_symbol(exchange_id, what) from exc
    except ccxt.BaseError as exc:
        if isinstance(exc.__cause__, ClientPayloadError):
            raise _unavailable(exchange_id, "the answer broke off") from exc
        raise SourceError(
            f"The exchange {exchange_id} refuses {what} ({type(exc).__name__}: {_short(exc)})."
        ) from exc
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        # ccxt parses without checking: a body of another shape ends in one of these.
        raise unreadable(exchange_id) from exc


def unreadable(exchange_id: str) -> SourceError:
    """The error for an answer that is not what was asked for."""
    return SourceError(
        f"The exchange {exchange_id} answers with something that is no market data.",
        hint="A proxy or a maintenance page may stand before it.",
    )


def unknown_symbol(exchange_id: str, symbol: str, kind: MarketKind = "spot") -> UnknownSymbol:
    """The error for a symbol that the exchange does not trade."""
    return UnknownSymbol(
        f"The exchange {exchange_id} has no {kind} market {symbol!r}.",
        hint="Write base and quote together, like BTCUSDT; see LEVIBOT_SYMBOLS.",
    )


def network_error(reason: str) -> Exception:
    """The error by which ccxt's own parts tell each other that a connection is no good."""
    import ccxt

    error: Exception = ccxt.NetworkError(reason)
    return error


def _unavailable(exchange_id: str, why: str, retry_after_s: float | None = None) -> SourceUnavailable:
    return SourceUnavailable(
        f"The exchange {exchange_id} does not answer ({why}).",
        hint="It is tried again later; look at the network and at the exchange's status page.",
        retry_after_s=retry_after_s,
    )


def _decoded(exchange_id: str, fetch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """ccxt's request, which hands on a text where it found no JSON, made to refuse it."""

    async def fetch_json(*args: Any, **kwargs: Any) -> Any:
        answer = await fetch(*args, **kwargs)
        if not isinstance(answer, dict | list):
            raise unreadable(exchange_id)
        return answer

    return fetch_json


def _patient(exchange_id: str, clock: Clock, handle_errors: Callable[..., Any]) -> Callable[..., Any]:
    """ccxt's check of an answer's status, which drops Retry-After, made to keep it."""

    def check(code: int, reason: str, url: str, method: str, headers: Any, *rest: Any) -> Any:
        if code in (418, 429) or code >= 500:
            wait_s = parse_retry_after(_header(headers, "retry-after"), clock.now())
            raise _unavailable(exchange_id, f"HTTP {code} {reason}", wait_s)
        return handle_errors(code, reason, url, method, headers, *rest)

    return check


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)


def _rows_only(exchange_id: str, parse: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """ccxt's parser of rows, which takes an answer that it cannot read for no rows, made to refuse it."""

    def parse_rows(answer: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(answer, list) or not all(isinstance(row, list | dict) and row for row in answer):
            raise unreadable(exchange_id)
        return parse(answer, *args, **kwargs)

    return parse_rows


def _dated(exchange_id: str, parse: Callable[..., Any], instant: int | str) -> Callable[..., Any]:
    """ccxt's parser of one row, whose callers drop a row without an instant, made to refuse it."""

    def parse_row(row: Any, *args: Any, **kwargs: Any) -> Any:
        parsed = parse(row, *args, **kwargs)
        if not isinstance(parsed[instant], int):
            raise unreadable(exchange_id)
        return parsed

    return parse_row


def _ask_only_for(wire: Any, kind: MarketKind) -> None:
    """Leave out the endpoints of other kinds of markets, where the exchange has one each."""
    name = "spot" if kind == "spot" else "linear"
    fetch_markets = wire.options.get("fetchMarkets")
    if isinstance(fetch_markets, dict) and name in (types := fetch_markets.get("types") or ()):
        fetch_markets["types"] = {k: k == name for k in types} if isinstance(types, dict) else [name]


def _moved(urls: Any, base_url: str) -> Any:
    """The same tree of addresses on another host."""
    if isinstance(urls, dict):
        return {name: _moved(url, base_url) for name, url in urls.items()}
    if not isinstance(urls, str):
        return urls
    parts = urlsplit(urls)
    # http becomes ws and https wss, so that a websocket goes the same way.
    base = base_url.replace("http", "ws", 1) if parts.scheme in ("ws", "wss") else base_url
    return base + parts.path


def _short(exc: BaseException) -> str:
    return str(exc).splitlines()[0][:200] if str(exc) else "no message"
