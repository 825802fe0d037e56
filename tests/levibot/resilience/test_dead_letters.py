"""Dead letters on a real server: kept, replayed with back-off, and never lost when a consumer is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from structlog.testing import capture_logs

from levibot.clock import ManualClock
from levibot.errors import DataError, StoreError, StoreUnavailable, UsageError
from levibot.resilience.dead_letters import DeadLetters, Replayed
from levibot.stores.redis import open_redis
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Inbox:
    """A handler that notes what it gets, and refuses what it is told to."""

    def __init__(self, *refused: object) -> None:
        self.got: list[object] = []
        self.refused = set(refused)

    async def handle(self, message: Any) -> None:
        self.got.append(message)
        if message in self.refused:
            raise StoreUnavailable(f"no room for {message}")


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """A database of its own, empty before and after."""
    own = open_redis(redis_url.rsplit("/", 1)[0] + "/7", timeout_s=5.0)
    await own.flushdb()
    yield own
    await own.flushdb()
    await own.aclose()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def letters(client: Redis, clock: ManualClock, metrics: Metrics) -> DeadLetters:
    return DeadLetters(client, clock=clock, first_wait_s=5.0, max_letters=50, metrics=metrics)


async def send(letters: DeadLetters, *messages: object, queue: str = "trial") -> None:
    for message in messages:
        await letters.send(queue, message, error="the store is away", attempts=3, trace_id="t1")


async def messages(letters: DeadLetters, queue: str = "trial") -> list[object]:
    return [letter.message for letter in await letters.read(queue)]


async def test_a_letter_says_what_happened(letters: DeadLetters, metrics: Metrics) -> None:
    await send(letters, {"price": 1.5, "what": ["a", None]})
    (letter,) = await letters.read("trial")
    assert letter.message == {"price": 1.5, "what": ["a", None]}
    assert (letter.error, letter.attempts, letter.trace_id) == ("the store is away", 3, "t1")
    assert (letter.died_at, letter.replays, len(letter.letter_id)) == (NOON, 0, 32)
    assert metrics.registry.get_sample_value("levibot_dead_letters_total", {"queue": "trial"}) == 1


async def test_letters_are_delivered_oldest_first_once_they_are_due(
    letters: DeadLetters, clock: ManualClock
) -> None:
    await send(letters, *range(250 // 6))
    inbox = Inbox()
    assert await letters.replay("trial", inbox.handle, consumer="a") == Replayed(0, 0, 41)
    clock.advance(5.0)
    assert await letters.replay("trial", inbox.handle, consumer="a") == Replayed(41, 0, 0)
    assert inbox.got == list(range(41))
    assert await letters.queues() == {}


async def test_more_letters_than_a_page_holds_are_all_seen(client: Redis, clock: ManualClock) -> None:
    letters = DeadLetters(client, clock=clock, first_wait_s=0.0)
    await send(letters, *range(250))
    refused = range(0, 250, 3)
    inbox = Inbox(*refused)
    done = await letters.replay("trial", inbox.handle, consumer="a")
    assert (done.delivered, done.failed) == (250 - len(refused), len(refused))
    assert inbox.got[:250] == list(range(250))
    assert await messages(letters) == list(refused)


async def test_what_fails_waits_twice_as_long_each_time(letters: DeadLetters, clock: ManualClock) -> None:
    await send(letters, "bad", "good")
    inbox = Inbox("bad")
    clock.advance(5.0)
    assert await letters.replay("trial", inbox.handle, consumer="a") == Replayed(1, 1, 0)
    for wait_s in (10.0, 20.0, 40.0):
        clock.advance(wait_s - 0.1)
        assert await letters.replay("trial", inbox.handle, consumer="a") == Replayed(0, 0, 1)
        clock.advance(0.2)
        assert (await letters.replay("trial", inbox.handle, consumer="a")).failed == 1
    (letter,) = await letters.read("trial")
    assert (letter.error, letter.attempts, letter.replays) == ("no room for bad", 7, 4)
    assert letter.died_at == NOON


async def test_the_wait_is_bounded(letters: DeadLetters, clock: ManualClock) -> None:
    await send(letters, "bad")
    for _ in range(40):
        clock.advance(3600.0)
        assert (await letters.replay("trial", Inbox("bad").handle, consumer="a")).failed == 1


async def test_an_unforeseen_error_or_a_hanging_handler_keeps_the_letter(
    client: Redis, clock: ManualClock
) -> None:
    letters = DeadLetters(client, clock=clock, first_wait_s=0.0, handler_timeout_s=0.05)
    await send(letters, 1, 2)

    async def handle(message: int) -> None:
        if message == 1:
            raise ZeroDivisionError("slip")
        await asyncio.Event().wait()

    assert (await letters.replay("trial", handle, consumer="a")).failed == 2
    errors = [letter.error for letter in await letters.read("trial")]
    assert errors == ["ZeroDivisionError: slip", "The handler took longer than 0.05 s."]


async def test_a_full_queue_refuses_loudly(letters: DeadLetters, metrics: Metrics) -> None:
    await send(letters, *range(50))
    with pytest.raises(StoreError, match="holds 50 dead letters, its limit"):
        await send(letters, 50)
    await send(letters, "another queue has its own limit", queue="other")
    assert await letters.queues() == {"other": 1, "trial": 50}
    assert metrics.registry.get_sample_value("levibot_dead_letters_total", {"queue": "trial"}) == 50


async def test_a_letter_that_is_sent_again_for_want_of_an_answer_is_kept_once(letters: DeadLetters) -> None:
    await send(letters, "a", "b")
    (first, _) = await letters._client.lrange("dlq:trial", 0, -1)
    # As the client does by itself, and also when the queue is full by now.
    assert await letters._push(["dlq:trial"], [first, 2]) == 1
    assert [letter.message for letter in await letters.read("trial")] == ["a", "b"]


async def test_what_cannot_be_kept_is_refused_with_its_reason(letters: DeadLetters) -> None:
    with pytest.raises(DataError, match="not JSON"):
        await send(letters, {1, 2})
    with pytest.raises(DataError, match="not JSON"):
        await send(letters, float("nan"))
    with pytest.raises(DataError, match="over 200000"):
        await send(letters, "x" * 200_000)
    with pytest.raises(UsageError, match="a:b"):
        await send(letters, 1, queue="a:b")
    assert await letters.queues() == {}


async def test_letters_made_due_are_replayed_now(letters: DeadLetters) -> None:
    await send(letters, *range(5))
    chosen = [letter.letter_id for letter in await letters.read("trial")][1:3]
    assert await letters.make_due("trial", chosen) == 2
    inbox = Inbox()
    assert await letters.replay("trial", inbox.handle, consumer="a") == Replayed(2, 0, 3)
    assert inbox.got == [1, 2]
    assert await letters.make_due("trial") == 3
    assert await messages(letters) == [0, 3, 4]


async def test_letters_are_dropped_by_hand_only(letters: DeadLetters) -> None:
    await send(letters, *range(5))
    chosen = [letter.letter_id for letter in await letters.read("trial")][::2]
    assert await letters.drop("trial", chosen) == 3
    assert await messages(letters) == [1, 3]
    assert await letters.drop("trial", ["unknown"]) == 0
    assert await letters.drop("trial") == 2
    assert await letters.queues() == {}


async def test_what_is_no_letter_blocks_nobody(
    letters: DeadLetters, client: Redis, clock: ManualClock
) -> None:
    await client.rpush("dlq:trial", "garbage", b"\xff", "[]", '{"queue": "trial"}')
    await send(letters, "good")
    clock.advance(5.0)
    inbox = Inbox()
    with capture_logs() as logs:
        await letters.replay("trial", inbox.handle, consumer="a")
    assert inbox.got == ["good"]
    assert [line["event"] for line in logs] == ["an entry of a queue is not a dead letter"] * 4
    assert await letters.queues() == {"trial": 4}
    assert await letters.drop("trial") == 4


async def test_two_consumers_share_the_work(client: Redis) -> None:
    letters = DeadLetters(client, first_wait_s=0.0)
    await send(letters, *range(60))
    inbox = Inbox()
    done = await asyncio.gather(*(letters.replay("trial", inbox.handle, consumer=name) for name in "abc"))
    # Where one of them is quicker than another, a page of the other's may be out of date: a second look.
    done.append(await letters.replay("trial", inbox.handle, consumer="a"))
    assert sum(part.delivered for part in done) == 60
    assert sorted(map(str, inbox.got)) == sorted(map(str, range(60)))


async def test_a_slow_consumers_letter_is_not_delivered_twice_to_no_end(client: Redis) -> None:
    """Its lease is over, the letter is back in the queue, and its late delivery still takes it out."""
    letters = DeadLetters(client, first_wait_s=0.0, handler_timeout_s=5.0)
    await send(letters, "late")

    async def slow(_: object) -> None:
        await client.delete("dlq:trial:lease:slow")
        assert await letters.recover("trial") == 1

    await letters.replay("trial", slow, consumer="slow")
    assert await letters.queues() == {}


async def test_a_cancelled_replay_gives_its_letter_back(client: Redis) -> None:
    letters = DeadLetters(client, first_wait_s=0.0)
    await send(letters, "held")
    entered = asyncio.Event()

    async def hang(_: object) -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(letters.replay("trial", hang, consumer="a"))
    await asyncio.wait_for(entered.wait(), 5.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await letters.queues(), await messages(letters)) == ({"trial": 1}, [])
    inbox = Inbox()
    await letters.replay("trial", inbox.handle, consumer="a")
    assert inbox.got == ["held"]


async def test_redis_away_is_said(client: Redis) -> None:
    away = open_redis("redis://127.0.0.1:1/0", timeout_s=0.5)
    with pytest.raises(StoreUnavailable, match="keep a dead letter"):
        await send(DeadLetters(away), "message")
    await away.aclose()


@pytest.mark.parametrize("n_kills", [3])
async def test_no_letter_is_lost_when_consumers_are_killed(
    client: Redis, redis_url: str, n_kills: int
) -> None:
    letters = DeadLetters(client, first_wait_s=0.0)
    await send(letters, *({"n": n} for n in range(300)))
    url = redis_url.rsplit("/", 1)[0] + "/7"

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "dead_letter_consumer.py"), url, name]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})

    async def has_happened(condition: Callable[[int, int], bool]) -> None:
        async with asyncio.timeout(60.0):
            while True:
                left = sum((await letters.queues()).values())
                if condition(await client.hlen("effects"), left):
                    return
                await asyncio.sleep(0.01)

    for turn in range(1, n_kills + 1):
        consumer = start(f"killed-{turn}")
        await has_happened(lambda done, _, at_least=50 * turn: done >= at_least)
        consumer.send_signal(signal.SIGKILL)
        consumer.wait()
    last = start("last")
    await has_happened(lambda _, left: left == 0)
    last.kill()
    last.wait()

    effects = {int(n): int(times) for n, times in (await client.hgetall("effects")).items()}
    assert effects.keys() == set(range(300))
    # At least once: a kill may repeat the one letter that its consumer had in hand.
    assert 0 <= sum(effects.values()) - 300 <= n_kills
    assert await client.keys("dlq:trial:taken:*") == []
