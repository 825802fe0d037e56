"""Webhooks against a real Redis: signed or refused, kept once, and worked off into events."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.webhook_intake import DEAD_LETTERS, WebhookIntake
from deployments.http import build_http
from deployments.webhooks import Webhooks
from levibot.access.webhook_signature import signature_of
from levibot.clock import ManualClock
from levibot.errors import StoreUnavailable
from levibot.resilience.dead_letters import DeadLetters
from levibot.settings import Settings
from levibot.stores.connect import open_durable
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.event import Event
from levibot.stores.webhook_queue import KEY, WebhookQueue
from tests.fakes.face import FakeFace, error_of

pytestmark = pytest.mark.stores

SECRET = "a secret of more than 32 characters"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SIGNAL: dict[str, Any] = {
    "sender": "desk-7",
    "symbol": "BTCUSDT",
    "as_of": "2024-05-01T12:00:00Z",
    "score": 0.4,
    "note": "breakout",
}


class FakeLog:
    """Stands in for the client of the event log."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def append(self, events: Sequence[Event]) -> None:
        self.events += events


@pytest.fixture
def settings(servers: EmbeddedServers, settings_home: Path) -> Settings:
    return Settings(home=settings_home, webhook_secret=SECRET)


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[WebhookQueue]:
    client = open_durable(settings)
    await client.delete(KEY)
    yield WebhookQueue(client)
    await client.delete(KEY)
    await client.aclose()


@pytest.fixture
async def client(settings: Settings, queue: WebhookQueue, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    face = FakeFace(tmp_path)
    webhooks = Webhooks(settings, face.limits, ManualClock(NOON))
    face.webhooks = webhooks  # type: ignore[assignment]
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        yield client
    await webhooks.close()


async def send(
    client: httpx.AsyncClient, key: str, signal: dict[str, Any] | None = None, **changed: str
) -> httpx.Response:
    body = json.dumps(SIGNAL if signal is None else signal).encode()
    at = str(int(datetime.now(UTC).timestamp()))
    headers = {
        "content-type": "application/json",
        "x-levibot-timestamp": at,
        "x-levibot-signature": signature_of(SECRET, at, body),
        "idempotency-key": key,
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    return await client.post("/webhook/signal", content=body, headers=headers)


async def worked_off(queue: WebhookQueue) -> None:
    async with asyncio.timeout(20):
        while True:
            if not await queue.count():
                return
            await asyncio.sleep(0.05)


async def test_a_webhook_is_kept_once_and_becomes_one_event(
    client: httpx.AsyncClient, queue: WebhookQueue, settings: Settings
) -> None:
    key = secrets.token_hex(8)
    answers = await asyncio.gather(*(send(client, key) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [202] * 5
    assert len({answer.json()["event_id"] for answer in answers}) == 1
    assert sorted(answer.json()["is_repeat"] for answer in answers) == [False, True, True, True, True]
    assert await queue.count() == 1
    log = FakeLog()
    intake = WebhookIntake(settings, log)  # type: ignore[arg-type]
    try:
        await worked_off(queue)
        (event,) = log.events
        assert (event.event_type, event.symbol, event.ts) == ("webhook_signal", "BTCUSDT", NOON)
        assert event.event_id == answers[0].json()["event_id"]
        assert {name: event.payload[name] for name in ("sender", "as_of", "score", "note")} == {
            name: SIGNAL[name] for name in ("sender", "as_of", "score", "note")
        }
        assert (await intake.status())["n_stored"] == 1
        # What nobody can make an event of is not lost, and holds up nothing.
        redis = open_durable(settings)
        await redis.xadd(KEY, {"m": "no webhook"})
        await send(client, key + "-2")
        await worked_off(queue)
        assert len(log.events) == 2
        letters = DeadLetters(redis)
        assert [one.message for one in await letters.read(DEAD_LETTERS)] == ["no webhook"]
        await letters.drop(DEAD_LETTERS)
        await redis.aclose()
    finally:
        intake._loop.cancel()
        await asyncio.wait({intake._loop})


async def test_what_was_in_hand_at_death_is_taken_again(queue: WebhookQueue) -> None:
    for number in range(3):
        await queue.push({"number": number})
    first = await queue.take("intake", 2, 0.05)
    again = await queue.take("intake", 2, 0.05)
    assert [one.message for one in first] == [{"number": 0}, {"number": 1}]
    assert again == first
    await queue.done([one.entry_id for one in again])
    assert [one.message for one in await queue.take("intake", 2, 0.05)] == [{"number": 2}]


async def test_a_queue_that_nobody_works_off_refuses_more(settings: Settings, queue: WebhookQueue) -> None:
    client = open_durable(settings)
    small = WebhookQueue(client, max_waiting=2)
    await small.push({})
    await small.push({})
    with pytest.raises(StoreUnavailable, match="2 webhooks wait already"):
        await small.push({})
    await client.aclose()


async def test_another_webhook_under_the_same_key_is_refused(client: httpx.AsyncClient) -> None:
    key = secrets.token_hex(8)
    assert (await send(client, key)).status_code == 202
    error_of(await send(client, key, {**SIGNAL, "score": -0.4}), 400, "usage")
    # Of another sender it is another key.
    assert (await send(client, key, {**SIGNAL, "sender": "desk-8"})).status_code == 202


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"x_levibot_signature": "v1=" + "0" * 64}, 401, "key_refused"),
        ({"x_levibot_timestamp": "1714564800"}, 401, "key_refused"),
        ({"x_levibot_signature": "nonsense"}, 422, "bad_request"),
        ({"x_levibot_timestamp": "soon"}, 422, "bad_request"),
        ({"idempotency_key": "a b"}, 422, "bad_request"),
        ({"idempotency_key": ""}, 422, "bad_request"),
    ],
)
async def test_what_is_not_signed_is_refused_and_kept_nowhere(
    client: httpx.AsyncClient, queue: WebhookQueue, changed: dict[str, str], status: int, code: str
) -> None:
    error_of(await send(client, "key", **changed), status, code)
    assert await queue.count() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"score": 1.1},
        {"score": None},
        {"symbol": "btc"},
        {"as_of": "2024-05-01T12:00:00"},
        {"sender": "Desk"},
        {"note": "x" * 501},
        {"more": 1},
    ],
)
async def test_a_signed_webhook_that_breaks_the_schema_is_refused(
    client: httpx.AsyncClient, queue: WebhookQueue, change: dict[str, Any]
) -> None:
    error_of(await send(client, secrets.token_hex(8), {**SIGNAL, **change}), 422, "bad_request")
    assert await queue.count() == 0


async def test_without_a_secret_no_webhook_is_taken(settings: Settings, tmp_path: Path) -> None:
    face = FakeFace(tmp_path)
    off = settings.model_copy(update={"webhook_secret": None})
    face.webhooks = Webhooks(off, face.limits, ManualClock(NOON))  # type: ignore[assignment]
    transport = httpx.ASGITransport(build_http(face), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://levibot") as client:
        error_of(await send(client, "key"), 403, "source_disabled")
