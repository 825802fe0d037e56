"""`dead-letters list|replay|drop` on a real server, with and without a consumer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from levibot.errors import StoreUnavailable
from levibot.resilience.dead_letters import DeadLetters
from levibot.stores.redis import open_redis
from tests.levibot.conftest import Command

pytestmark = pytest.mark.stores

Run = Callable[[Callable[[DeadLetters], Awaitable[Any]]], Any]


@pytest.fixture
def url(redis_url: str, levibot: Command, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of its own, and the command line pointed at it."""
    own = redis_url.rsplit("/", 1)[0] + "/8"
    monkeypatch.setenv("LEVIBOT_REDIS_URL", own)
    monkeypatch.setenv("LEVIBOT_POSTGRES_DSN", "postgresql://not.used/x")
    return own


@pytest.fixture
def on_letters(url: str) -> Iterator[Run]:
    def run(call: Callable[[DeadLetters], Awaitable[Any]]) -> Any:
        async def connected() -> Any:
            client = open_redis(url, timeout_s=5.0)
            try:
                return await call(DeadLetters(client))
            finally:
                await client.aclose()

        return asyncio.run(connected())

    async def empty(letters: DeadLetters) -> None:
        await letters._client.flushdb()

    run(empty)
    yield run
    run(empty)


async def send_three(letters: DeadLetters) -> list[str]:
    sent = [await letters.send("trial", n, error=f"reason {n}", attempts=3, trace_id="t") for n in range(3)]
    return [letter.letter_id for letter in sent]


@pytest.fixture
def consumer(url: str) -> Iterator[None]:
    """What the running system's replayer does, in a thread: it delivers all but the message 1."""
    ended = threading.Event()

    async def handle(message: object) -> None:
        if message == 1:
            raise StoreUnavailable("no room for 1")

    async def consume() -> None:
        client = open_redis(url, timeout_s=5.0)
        while not ended.is_set():
            await DeadLetters(client).replay("trial", handle, consumer="test")
            await asyncio.sleep(0.05)
        await client.aclose()

    thread = threading.Thread(target=asyncio.run, args=(consume(),))
    thread.start()
    yield
    ended.set()
    thread.join(30.0)


@pytest.mark.parametrize("command", ["list", "replay", "drop"])
def test_every_command_explains_itself(levibot: Command, command: str) -> None:
    shown = levibot("dead-letters", command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert "--json" in shown.out


def test_list_shows_the_queues_and_the_letters(levibot: Command, on_letters: Run) -> None:
    assert levibot("dead-letters", "list").out == "There are no dead letters.\n"
    assert levibot("dead-letters", "list", "trial").out == "There are no dead letters in trial.\n"
    ids = on_letters(send_three)
    assert levibot("dead-letters", "list", "--json").json() == {"queues": {"trial": 3}}
    shown = levibot("dead-letters", "list", "trial", "--limit", 2, "--json").json()
    assert [letter["letter_id"] for letter in shown["letters"]] == ids[:2]
    assert shown["letters"][1]["message"] == 1
    lines = levibot("dead-letters", "list", "trial").out.splitlines()
    assert [line.split()[0] for line in lines] == ids
    assert lines[2].endswith("trace t  reason 2")


def test_replay_says_what_came_of_it(levibot: Command, on_letters: Run, consumer: None) -> None:
    on_letters(send_three)
    outcome = levibot("dead-letters", "replay", "trial", "--json")
    assert (outcome.code, outcome.json()) == (
        1,
        {"queue": "trial", "delivered": 2, "failed": 1, "waiting": 0},
    )
    (letter,) = levibot("dead-letters", "list", "trial", "--json").json()["letters"]
    assert (letter["message"], letter["error"], letter["attempts"]) == (1, "no room for 1", 4)


def test_replay_of_chosen_letters_leaves_the_rest(levibot: Command, on_letters: Run, consumer: None) -> None:
    ids = on_letters(send_three)
    outcome = levibot("dead-letters", "replay", "trial", "--id", ids[0], "--id", ids[2])
    assert (outcome.code, outcome.out) == (0, "2 delivered, 0 failed again, 0 waiting.\n")
    assert [e["letter_id"] for e in levibot("dead-letters", "list", "trial", "--json").json()["letters"]] == [
        ids[1]
    ]


def test_replay_without_a_running_system_says_that_they_wait(levibot: Command, on_letters: Run) -> None:
    on_letters(send_three)
    outcome = levibot("dead-letters", "replay", "trial", "--wait", 0.5)
    assert (outcome.code, outcome.out) == (1, "0 delivered, 0 failed again, 3 waiting.\n")


def test_drop_deletes_what_is_named_and_nothing_else(levibot: Command, on_letters: Run) -> None:
    ids = on_letters(send_three)
    assert levibot("dead-letters", "drop", "trial", "--id", ids[1]).out == "1 deleted from trial.\n"
    for wrong in ((), ("--all", "--id", ids[0])):
        refused = levibot("dead-letters", "drop", "trial", *wrong)
        assert (refused.code, refused.error()[:35]) == (2, "It is not said which letters to del")
    assert levibot("dead-letters", "drop", "trial", "--all", "--json").json() == {
        "queue": "trial",
        "dropped": 2,
    }
    assert levibot("dead-letters", "list", "--json").json() == {"queues": {}}


def test_a_wrong_name_is_a_wrong_call(levibot: Command, on_letters: Run) -> None:
    assert levibot("dead-letters", "list", "a:b").code == 2
    unknown = levibot("dead-letters", "replay", "trial", "--id", "nobody")
    assert (unknown.code, unknown.error()) == (2, "There is no letter nobody in trial.")


def test_a_redis_that_is_away_is_an_error(
    levibot: Command, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEVIBOT_REDIS_URL", "redis://127.0.0.1:1/0")
    refused = levibot("dead-letters", "list", "--json")
    assert (refused.code, refused.json()["error"]["code"]) == (1, "store_unavailable")
