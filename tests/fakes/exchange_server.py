"""A stand-in for the exchange: an HTTP server on loopback that speaks Binance's wire shapes."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np

from levibot.market.bars import Bars

MAX_ROWS = 1000


class FakeExchange:
    """Serves spot markets and klines. While `answer` is set, every answer is that status and body."""

    def __init__(self, bars: dict[str, Bars]) -> None:
        self.klines = {symbol: [_kline(b, row) for row in range(len(b))] for symbol, b in bars.items()}
        self.answer: tuple[int, str] | None = None
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def respond(self, path: str, query: dict[str, str]) -> tuple[int, str]:
        self.requests.append(path)
        if self.answer is not None:
            return self.answer
        if path == "/api/v3/exchangeInfo":
            return 200, json.dumps({"timezone": "UTC", "symbols": [_market(s) for s in self.klines]})
        if path == "/api/v3/klines":
            if query["symbol"] not in self.klines:
                return 400, json.dumps({"code": -1121, "msg": "Invalid symbol."})
            since = int(query.get("startTime", "0"))
            rows = [row for row in self.klines[query["symbol"]] if row[0] >= since]
            return 200, json.dumps(rows[: min(int(query.get("limit", "500")), MAX_ROWS)])
        return 404, "{}"


def _kline(bars: Bars, row: int) -> list[Any]:
    opens_at_ms = int(bars.ts[row].astype("datetime64[ms]").astype(np.int64))
    closes_at_ms = opens_at_ms + int(bars.interval.total_seconds() * 1000) - 1
    prices = [f"{getattr(bars, name)[row]:.8f}" for name in ("open", "high", "low", "close", "volume")]
    return [opens_at_ms, *prices, closes_at_ms, "1.0", 1, "0.5", "0.5", "0"]


def _market(symbol: str) -> dict[str, Any]:
    base, quote = symbol.removesuffix("USDT"), "USDT"
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1e6", "tickSize": "0.01"}
        ],
    }


def _handler_of(exchange: FakeExchange) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, body = exchange.respond(
                parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()}
            )
            payload = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    return Handler
