"""A stand-in for the exchange: HTTP and websocket on loopback, in Binance's wire shapes."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from levibot.market.bars import Bars
from tests.fakes.loopback_server import SLOW_S, Asked, LoopbackServer

MAX_ROWS = 1000
FIRST_TRADE_ID = 3_821_253_461
FIRST_TRADE_MS = 1_769_224_657_583
FUNDING_MS = 8 * 3_600_000


class FakeExchange(LoopbackServer):
    """Serves spot markets, klines, trades and books. While `answer` is set, every answer is that.

    Trades are made by `trade`; each is on REST from then on, and goes to the subscribed sockets unless
    `is_silent`. `system_status`: 0 normal, 1 maintenance. The server's clock stands still, unless it
    `follows_clock`.
    """

    def __init__(self, bars: dict[str, Bars]) -> None:
        super().__init__()
        self.klines = {symbol: [_kline(b, row) for row in range(len(b))] for symbol, b in bars.items()}
        self.trades: dict[str, list[dict[str, Any]]] = {symbol: [] for symbol in bars}
        self.answer: tuple[int, str] | None = None
        self.is_silent = False
        self.system_status = 0
        self.follows_clock = False
        self.n_connections = 0
        self._sockets: dict[web.WebSocketResponse, set[str]] = {}

    def trade(self, symbol: str, n: int = 1, *, step_ms: int = 10) -> list[int]:
        """Make the next `n` trades of a symbol. Returns their ids."""
        made = []
        for _ in range(n):
            book = self.trades[symbol]
            row = len(book)
            book.append(
                {
                    "a": FIRST_TRADE_ID + row,
                    "p": f"{100.0 + row % 7:.8f}",
                    "q": f"{0.001 * (1 + row % 5):.8f}",
                    "f": 2 * (FIRST_TRADE_ID + row),
                    "l": 2 * (FIRST_TRADE_ID + row) + 1,
                    "T": FIRST_TRADE_MS + row * step_ms,
                    "m": row % 2 == 0,
                    "M": True,
                }
            )
            made.append(book[-1])
        if not self.is_silent:
            self.push(symbol, made)
        return [trade["a"] for trade in made]

    def push(self, symbol: str, trades: list[dict[str, Any]]) -> None:
        """Send trades to the sockets that are subscribed to the symbol, in the given order."""
        frames = [
            json.dumps({"e": "aggTrade", "E": trade["T"] + 1, "s": symbol, **trade}) for trade in trades
        ]
        self.run(self._send(f"{symbol.lower()}@aggTrade", frames))

    def send_raw(self, frame: str) -> None:
        """Send a text frame to every socket."""
        self.run(self._send(None, [frame]))

    def drop(self) -> None:
        """Cut every socket's connection, without a close frame."""
        self.run(self._drop())

    def subscribed(self, symbol: str) -> int:
        """How many sockets are subscribed to the symbol's trades."""
        return sum(f"{symbol.lower()}@aggTrade" in streams for streams in list(self._sockets.values()))

    def now_ms(self) -> int:
        """The server's time."""
        return time.time_ns() // 1_000_000 if self.follows_clock else FIRST_TRADE_MS

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/ws/{stream}", self._stream)

    async def end(self) -> None:
        await self._drop()

    async def _send(self, stream: str | None, frames: list[str]) -> None:
        for target, streams in list(self._sockets.items()):
            if stream is None or stream in streams:
                for frame in frames:
                    await target.send_str(frame)

    async def _drop(self) -> None:
        for target in list(self._sockets):
            transport = target._req.transport if target._req is not None else None
            if transport is not None:
                transport.abort()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.fault in ("429", "503"):
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            return web.Response(status=int(self.fault), headers=headers)
        if self.fault == "hang":
            await self._wait(SLOW_S)
        target = web.WebSocketResponse()
        await target.prepare(request)
        self.n_connections += 1
        self._sockets[target] = set()
        try:
            async for message in target:
                if message.type is WSMsgType.TEXT:
                    asked = json.loads(message.data)
                    if asked["method"] == "SUBSCRIBE":
                        self._sockets[target].update(asked["params"])
                    await target.send_str(json.dumps({"result": None, "id": asked["id"]}))
        finally:
            del self._sockets[target]
        return target

    async def respond(self, asked: Asked) -> tuple[int, str]:
        if self.answer is not None:
            return self.answer
        symbol = asked.query.get("symbol", "")
        limit = min(int(asked.query.get("limit", "500")), MAX_ROWS)
        match asked.path:
            case "/api/v3/exchangeInfo":
                return 200, json.dumps({"timezone": "UTC", "symbols": [_market(s) for s in self.klines]})
            case "/fapi/v1/exchangeInfo":
                return 200, json.dumps({"timezone": "UTC", "symbols": [_perpetual(s) for s in self.klines]})
            case "/api/v3/ping":
                return 200, "{}"
            case "/api/v3/time":
                return 200, json.dumps({"serverTime": self.now_ms()})
            case "/sapi/v1/system/status":
                words = ("normal", "system_maintenance")
                return 200, json.dumps({"status": self.system_status, "msg": words[self.system_status]})
            case "/api/v3/ticker/24hr" | "/api/v3/ticker/bookTicker":
                return 200, json.dumps([_ticker(s) for s in self.klines])
        if symbol not in self.klines:
            return (400, '{"code": -1121, "msg": "Invalid symbol."}') if symbol else (404, "{}")
        match asked.path:
            case "/api/v3/klines":
                since = int(asked.query.get("startTime", "0"))
                rows = [row for row in self.klines[symbol] if row[0] >= since]
                return 200, json.dumps(rows[:limit])
            case "/api/v3/aggTrades":
                return 200, json.dumps(_page(self.trades[symbol], asked.query, limit))
            case "/api/v3/depth":
                return 200, json.dumps(_depth(limit))
            case "/fapi/v1/fundingRate":
                since = int(asked.query.get("startTime", FIRST_TRADE_MS))
                return 200, json.dumps(_funding(symbol, since, self.now_ms(), limit))
        return 404, "{}"


def _page(trades: list[dict[str, Any]], query: dict[str, str], limit: int) -> list[dict[str, Any]]:
    if "fromId" in query:
        return [t for t in trades if t["a"] >= int(query["fromId"])][:limit]
    if "startTime" in query:
        until = int(query.get("endTime", 1 << 62))
        return [t for t in trades if int(query["startTime"]) <= t["T"] <= until][:limit]
    return trades[-limit:]


def _kline(bars: Bars, row: int) -> list[Any]:
    opens_at_ms = int(bars.ts[row].astype("datetime64[ms]").astype(np.int64))
    closes_at_ms = opens_at_ms + int(bars.interval.total_seconds() * 1000) - 1
    prices = [f"{getattr(bars, name)[row]:.8f}" for name in ("open", "high", "low", "close", "volume")]
    return [opens_at_ms, *prices, closes_at_ms, "1.0", 1, "0.5", "0.5", "0"]


def _ticker(symbol: str) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "lastPrice": "100.00500000",
        "bidPrice": "100.00000000",
        "bidQty": "3.78826000",
        "askPrice": "100.01000000",
        "askQty": "1.54698000",
        "volume": "1234.50000000",
        "closeTime": FIRST_TRADE_MS,
    }


def _depth(limit: int) -> dict[str, Any]:
    bids = [[f"{100 - 0.01 * level:.8f}", f"{1 + level:.8f}"] for level in range(min(limit, 20))]
    asks = [[f"{100.01 + 0.01 * level:.8f}", f"{2 + level:.8f}"] for level in range(min(limit, 20))]
    return {"lastUpdateId": 50093239218, "bids": bids, "asks": asks}


def funding_rate(period: int) -> float:
    """What is paid at the end of a period of eight hours since 1970."""
    return 0.0001 * (period % 3 - 1)


def _funding(symbol: str, since_ms: int, now_ms: int, limit: int) -> list[dict[str, Any]]:
    first, last = -(-since_ms // FUNDING_MS), now_ms // FUNDING_MS
    return [
        {
            "symbol": symbol,
            "fundingTime": period * FUNDING_MS,
            "fundingRate": f"{funding_rate(period):.8f}",
            "markPrice": "100.00000000",
        }
        for period in range(first, min(last + 1, first + limit))
    ]


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
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1e6", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
    }


def _perpetual(symbol: str) -> dict[str, Any]:
    return {
        **_market(symbol),
        "pair": symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "marginAsset": "USDT",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "underlyingType": "COIN",
    }
