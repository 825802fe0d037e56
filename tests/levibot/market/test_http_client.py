"""The guarded HTTP client, against a server on loopback."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from levibot.clock import ManualClock
from levibot.errors import SettingsError, SourceDisabled, SourceError, SourceUnavailable
from levibot.market.http_client import HttpClient
from levibot.telemetry.metrics import Metrics
from tests.fakes.loopback_server import Asked, LoopbackServer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = "key-that-nobody-may-see"
Build = Callable[..., HttpClient]


class Place(LoopbackServer):
    """Answers each call by `status` and `body`."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.body = '{"value": 7}'

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/bomb", self._bomb)

    async def _bomb(self, request: web.Request) -> web.Response:
        packed = gzip.compress(json.dumps({"pad": "x" * 50_000_000}).encode())
        return web.Response(
            body=packed, content_type="application/json", headers={"Content-Encoding": "gzip"}
        )

    async def respond(self, asked: Asked) -> tuple[int, str]:
        return self.status, self.body


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as running:
        yield running


@pytest.fixture
async def build(place: Place, metrics: Metrics) -> AsyncIterator[Build]:
    opened: list[HttpClient] = []

    def open_client(**options: object) -> HttpClient:
        defaults: dict[str, object] = {
            "headers": {"x-key": KEY},
            "key": KEY,
            "attempts": 1,
            "timeout_s": 2.0,
            "metrics": metrics,
        }
        opened.append(HttpClient("the place", place.url, ManualClock(NOW), **(defaults | options)))  # type: ignore[arg-type]
        return opened[-1]

    yield open_client
    for client in opened:
        await client.close()


def value_of(answer: Any) -> int:
    if not isinstance(answer, dict) or "value" not in answer:
        raise ValueError(f"no value in {answer!r}")
    return int(answer["value"])


async def test_an_answer_is_read_and_the_key_is_sent(build: Build, place: Place) -> None:
    assert await build().get("/x", {"a": "1 &"}, value_of) == 7
    (asked,) = place.asked
    assert (asked.path, asked.query, asked.headers["x-key"]) == ("/x", {"a": "1 &"}, KEY)


@pytest.mark.parametrize(
    ("header", "wait_s"), [("7", 7.0), ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0), (None, None)]
)
@pytest.mark.parametrize("fault", ["429", "503"])
async def test_a_busy_place_says_when_to_come_back(
    build: Build, place: Place, fault: Any, header: str | None, wait_s: float | None
) -> None:
    place.fault, place.retry_after = fault, header
    with pytest.raises(SourceUnavailable, match=f"HTTP {fault}") as caught:
        await build().get("/x", {}, value_of)
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_not_repeated_in_the_message(build: Build, place: Place, status: int) -> None:
    place.status, place.body = status, json.dumps({"error": f"bad key {KEY}"})
    with pytest.raises(SourceError, match="refuses the key") as caught:
        await build().get("/x", {}, value_of)
    assert KEY not in str(caught.value)


async def test_a_reason_is_cut_short_and_carries_no_key(build: Build, place: Place) -> None:
    place.status, place.body = 400, f"no {KEY} " + "x" * 10_000
    with pytest.raises(SourceError, match="HTTP 400: no … x") as caught:
        await build().get("/x", {}, value_of)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "body", ["", "{", "nul", '{"value": NaN}', '{"value": Infinity}', "[" * 100_000, "3", "[]"]
)
async def test_what_is_not_the_expected_json_is_refused(build: Build, place: Place, body: str) -> None:
    place.body = body
    with pytest.raises(SourceError, match="not asked for") as caught:
        await build().get("/x", {}, value_of)
    assert not caught.value.is_transient


async def test_a_packed_answer_is_not_unpacked(build: Build) -> None:
    with pytest.raises(SourceError, match="packs its answer"):
        await build().get("/bomb", {}, value_of)


async def test_what_ends_a_call_before_it_is_sent_sends_nothing(build: Build, place: Place) -> None:
    async def refuse() -> None:
        raise SourceDisabled("no money")

    with pytest.raises(SourceDisabled, match="no money"):
        await build(attempts=3).post("/x", {}, value_of, before_attempt=refuse)
    assert place.asked == []


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://host/x", "http://", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="no web address"):
        HttpClient("the place", url, ManualClock(NOW))
