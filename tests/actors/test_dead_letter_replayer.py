"""Events that the log cannot take become dead letters, and the replayer appends them. Without Ray."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from actors import dead_letter_replayer, event_letters, event_log
from actors.dead_letter_replayer import DeadLetterReplayer
from actors.event_log import EventLog
from levibot.errors import DataError, NotReady
from levibot.resilience.dead_letters import DeadLetters
from levibot.settings import Settings
from levibot.stores.events import Event
from levibot.stores.redis import open_redis

pytestmark = pytest.mark.stores

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class UnreachableLog(event_log.Client):
    """A client whose log is not there."""

    async def _send(self, events: Sequence[Event]) -> None:
        raise ValueError("no actor of this name")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """An actor sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    own = open_redis(redis_url.rsplit("/", 1)[0] + "/9", timeout_s=5.0)
    await own.flushdb()
    yield own
    await own.flushdb()
    await own.aclose()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, client: Redis) -> Settings:
    own = redis_url.rsplit("/", 1)[0] + "/9"
    return Settings.load(home=tmp_path, redis_url=own, postgres_dsn="postgresql://not.used/x")


def events(n: int) -> list[Event]:
    return [Event("bars", "BTCUSDT", NOON + timedelta(seconds=i), {"n": i}, f"trace{i}") for i in range(n)]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within 20 s")


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[EventLog]:
    """Closed also after a failure: a process can have one folder of the engine open."""
    own = EventLog(settings)
    yield own
    await own.close()


async def test_lost_events_are_appended_once_the_log_is_back(
    settings: Settings, client: Redis, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_replayer, "POLL_S", 0.05)
    lost = events(250)
    keep = event_letters.keeper(settings)
    await UnreachableLog("test", keep).append(lost)
    letters = DeadLetters(client)
    kept = await letters.read("events")
    assert [len(letter.message) for letter in kept] == [100, 100, 50]
    assert (kept[1].attempts, kept[1].trace_id) == (3, "trace100")
    assert "no actor of this name" in kept[1].error
    await letters.make_due("events")

    replayer = DeadLetterReplayer(settings, {"events": event_letters.appender(log.append)})
    await until(lambda: replayer._delivered["events"] == 3)
    assert await log.read(1000) == lost[::-1]
    assert await letters.queues() == {}
    assert await replayer.status() == {"delivered": {"events": 3}, "problem": ""}
    replayer._loop.cancel()
    await asyncio.gather(replayer._loop, return_exceptions=True)


async def test_events_stay_letters_while_the_log_is_away(
    settings: Settings, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_replayer, "POLL_S", 0.05)
    letters = DeadLetters(client)
    await event_letters.keeper(settings)(events(1), "away")
    await letters.make_due("events")

    n_refused = 0

    async def refuse(_: Sequence[Event]) -> None:
        nonlocal n_refused
        n_refused += 1
        raise ValueError("no actor of this name")

    replayer = DeadLetterReplayer(settings, {"events": event_letters.appender(refuse)})
    await until(lambda: n_refused == 1)
    await asyncio.sleep(0.3)
    replayer._loop.cancel()
    await asyncio.gather(replayer._loop, return_exceptions=True)
    (letter,) = await letters.read("events")
    assert event_letters.unpack(letter.message)[0].payload == {"n": 0}
    assert letter.attempts == 4


async def test_events_that_cannot_be_kept_either_are_logged(tmp_path: Path) -> None:
    nowhere = Settings.load(home=tmp_path, redis_url="redis://127.0.0.1:1/0", postgres_dsn="postgresql://x/x")
    with capture_logs() as logs:
        await UnreachableLog("test", event_letters.keeper(nowhere)).append(events(1))
        await UnreachableLog("test", event_letters.keeper(Settings.load(home=tmp_path))).append(events(1))
    assert [(line["event"], line["log_level"]) for line in logs] == [("events were not written", "error")] * 2
    assert "not kept for later either: Redis did not answer" in logs[0]["reason"]
    assert "was never started" in logs[1]["reason"]


async def test_a_replayer_without_redis_waits_and_says_why(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    replayer = DeadLetterReplayer(away, {})
    assert replayer._delivered == {}
    replayer._loop.cancel()
    replayer = DeadLetterReplayer(away, {"events": event_letters.appender(event_letters.append_to_log)})
    await until(lambda: "Redis did not answer" in replayer._problem)
    assert not replayer._loop.done()
    replayer._loop.cancel()


def test_events_survive_the_way_through_json() -> None:
    told = events(3)
    assert event_letters.unpack(json.loads(json.dumps(event_letters.pack(told)))) == told


@pytest.mark.parametrize("message", [None, 7, [7], [{}], [{"ts": "noon"}], [{"ts": "2024-05-01", "x": 1}]])
async def test_a_letter_of_something_else_is_refused(message: object) -> None:
    with pytest.raises(DataError, match="does not hold events"):
        await event_letters.appender(event_letters.append_to_log)(message)


async def test_a_guarded_append_names_the_log(settings: Settings) -> None:
    async def refuse(_: Sequence[Event]) -> None:
        raise ValueError("no actor of this name")

    with pytest.raises(NotReady, match="dead_letters:event_log failed: no actor"):
        await event_letters.appender(refuse)(event_letters.pack(events(1)))
