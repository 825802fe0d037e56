"""Many signals at once, and the stream of those to come, over a fake of what is behind them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments import signal_routes
from deployments.http import build_http
from levibot.clock import ManualClock
from levibot.serving import signal_feed
from levibot.serving.client import headers_with
from levibot.serving.signal_feed import SignalFeed
from levibot.stores.online import OnlineStore
from levibot.stores.redis import open_redis
from levibot.stores.signal_stream import SignalStream
from tests.fakes.face import NOON, SIGNAL, FakeFace, error_of

HOUR = timedelta(hours=1)


@pytest.fixture
def face(tmp_path: Path) -> FakeFace:
    return FakeFace(tmp_path)


@pytest.fixture
async def client(face: FakeFace) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    headers = headers_with(face.reader)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot", headers=headers) as client:
        yield client


async def ask_batch(client: httpx.AsyncClient, *symbols: str) -> httpx.Response:
    return await client.post("/ai/predict/batch", json={"symbols": symbols})


async def test_a_version_is_asked_for_by_its_name(client: httpx.AsyncClient) -> None:
    def body(version: str) -> dict[str, str]:
        return {"symbol": "BTCUSDT", "model_version": version}

    served = await client.post("/ai/predict", json=body(SIGNAL.model_version))
    assert served.json()["model_version"] == SIGNAL.model_version
    unknown = await client.post("/ai/predict", json=body("v9.9.9"))
    assert "v9.9.9" in error_of(unknown, 404, "unknown_version")["message"]
    error_of(await client.post("/ai/predict", json=body("newest")), 422, "bad_request")


async def test_an_answer_says_whose_it_is_and_the_key_chooses_the_arm(
    client: httpx.AsyncClient, face: FakeFace
) -> None:
    face.answer = replace(face.answer, arm="canary")
    one = await client.post("/ai/predict", json={"symbol": "BTCUSDT"})
    assert one.json()["arm"] == "canary"
    (key_id,) = {key.key_id for key in face.keys.records() if key.name == "reader"}
    assert face.key_id == key_id
    face.key_id = ""
    many = (await ask_batch(client, "BTCUSDT")).json()
    assert many["answers"][0]["signal"]["arm"] == "canary"
    assert face.key_id == key_id


async def test_what_fails_of_one_symbol_fails_of_that_one_alone(client: httpx.AsyncClient) -> None:
    answer = await ask_batch(client, "ETHUSDT", "BTCUSDT")
    body = answer.json()
    one = (await client.post("/ai/predict", json={"symbol": "BTCUSDT"})).json()

    assert answer.status_code == 200
    assert body["n_failed"] == 1
    assert body["answers"] == [
        {
            "symbol": "ETHUSDT",
            "signal": None,
            "error": {
                "code": "unknown_symbol",
                "message": "ETHUSDT is not served.",
                "hint": "Served are: BTCUSDT.",
                "trace_id": answer.headers["x-request-id"],
            },
        },
        {
            "symbol": "BTCUSDT",
            "signal": one | {"trace_id": answer.headers["x-request-id"]},
            "error": None,
        },
    ]


@pytest.mark.parametrize(
    "symbols",
    [[], ["BTCUSDT", "ETHUSDT", "BTCUSDT"], ["x"], [f"S{n}USDT" for n in range(101)], "BTCUSDT", None],
)
async def test_a_batch_beyond_its_limits_is_refused(client: httpx.AsyncClient, symbols: Any) -> None:
    answer = await client.post("/ai/predict/batch", json={"symbols": symbols})
    assert error_of(answer, 422, "bad_request")["message"].startswith("body.symbols")


class Listener:
    """A client of the stream: what has come, block by block."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self._more = asyncio.Event()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            self.text += message.get("body", b"").decode()
        self._more.set()

    async def events(self, n: int) -> list[dict[str, str]]:
        """The first `n` events, as soon as they are there."""
        async with asyncio.timeout(10.0):
            while len(found := self._whole()) < n:
                self._more.clear()
                await self._more.wait()
        return found[:n]

    def _whole(self) -> list[dict[str, str]]:
        blocks = [block for block in self.text.split("\n\n")[:-1] if "event: " in block]
        return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


@asynccontextmanager
async def listening(face: FakeFace, last_event_id: str | None = None) -> AsyncIterator[Listener]:
    """A stream over ASGI itself, for httpx waits until an answer is whole; hung up when the block ends."""
    hung_up = asyncio.Event()
    listener = Listener()
    headers = [(b"authorization", f"Bearer {face.reader}".encode())]
    if last_event_id is not None:
        headers.append((b"last-event-id", last_event_id.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/ai/signals/stream",
        "raw_path": b"/ai/signals/stream",
        "query_string": b"",
        "headers": headers,
    }
    is_asked = False

    async def receive() -> dict[str, Any]:
        nonlocal is_asked
        if not is_asked:
            is_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    serving = asyncio.create_task(build_http(face)(scope, receive, listener.send))  # type: ignore[arg-type]
    try:
        yield listener
    finally:
        hung_up.set()
        async with asyncio.timeout(10.0):
            await serving


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[OnlineStore]:
    store = OnlineStore.open(
        *(redis_url, secrets.token_hex(6), "abc123", ("a", "b")),
        clock=ManualClock(NOON + 365 * 24 * HOUR),
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    yield store
    await store.close()


@pytest.fixture
async def stream(redis_url: str, store: OnlineStore) -> AsyncIterator[SignalStream]:
    stream = SignalStream(open_redis(redis_url, timeout_s=2.0), store.market_id, store.view_version)
    yield stream
    await stream.close()


@pytest.mark.stores
async def test_signals_come_as_they_are_made_and_go_on_after_a_break(
    face: FakeFace, store: OnlineStore, stream: SignalStream
) -> None:
    face.feed = SignalFeed(stream)
    first = replace(SIGNAL, symbol=f"S{secrets.token_hex(4).upper()}", market_id=store.market_id)
    signals = [replace(first, as_of=NOON + n * HOUR) for n in range(4)]
    begin = await stream.newest_id()
    async with listening(face, begin) as listener:
        for signal in signals[:2]:
            await store.write_signals([signal], ttl_s=30.0)
        seen = await listener.events(2)
        assert (listener.status, listener.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        assert listener.headers["x-request-id"]
    for signal in signals[2:]:
        await store.write_signals([signal], ttl_s=30.0)
    async with listening(face, seen[-1]["id"]) as listener:
        seen += await listener.events(2)

    bodies = [json.loads(event["data"]) for event in seen]
    assert {event["event"] for event in seen} == {"signal"}
    assert [body["as_of"] for body in bodies] == [f"2024-05-01T{12 + n}:00:00Z" for n in range(4)]
    assert bodies[0]["target_position"] == SIGNAL.target_position


@pytest.mark.stores
async def test_a_stream_ends_by_itself_and_says_when_to_come_again(
    face: FakeFace,
    store: OnlineStore,
    stream: SignalStream,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    face.feed = SignalFeed(stream)
    monkeypatch.setattr(signal_routes, "LASTS_S", 0.2)
    answer = await client.get("/ai/signals/stream")
    assert answer.status_code == 200
    assert "retry: 250" in answer.text


@pytest.mark.stores
async def test_what_was_lost_is_told_before_what_comes(
    face: FakeFace, store: OnlineStore, stream: SignalStream
) -> None:
    face.feed = SignalFeed(stream)
    symbol = f"S{secrets.token_hex(4).upper()}"
    await store.write_signals([replace(SIGNAL, symbol=symbol, market_id=store.market_id)], ttl_s=30.0)
    async with listening(face, f"{2**60}-0") as listener:
        gap = (await listener.events(1))[0]

    assert gap["event"] == "gap"
    assert f"{2**60}-0" in gap["data"]


async def test_a_wrong_place_and_one_stream_too_many_are_refused_with_their_status(
    client: httpx.AsyncClient, face: FakeFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = await client.get("/ai/signals/stream", headers={"last-event-id": "yesterday"})
    assert "yesterday" in error_of(wrong, 400, "usage")["message"]
    monkeypatch.setattr(signal_feed, "MOST_A_KEY", 0)
    many = await client.get("/ai/signals/stream")
    assert many.headers["retry-after"] == "1"
    error_of(many, 429, "rate_limited")
    monkeypatch.setattr(signal_feed, "MOST_A_KEY", 1)
    monkeypatch.setattr(signal_feed, "MOST", 0)
    error_of(await client.get("/ai/signals/stream"), 503, "not_ready")
