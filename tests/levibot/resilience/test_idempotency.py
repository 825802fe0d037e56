"""Idempotency keys on a real server: one writer, one result, whoever asks, waits, fails or is killed."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from levibot.errors import DataError, NotReady, StoreError, StoreUnavailable, UsageError
from levibot.resilience.deadline import deadline
from levibot.resilience.idempotency import Done, Idempotency, fingerprint
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer

pytestmark = pytest.mark.stores

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ORDER = fingerprint({"side": "buy", "notional_usd": 100.0})

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Work:
    """An operation that counts how often it is done, and how many do it at the same time."""

    def __init__(self, *, takes_s: float = 0.0, fails: int = 0, is_held: bool = False) -> None:
        self.tokens: list[int] = []
        self.has_begun = asyncio.Event()
        self.may_end = asyncio.Event()
        if not is_held:
            self.may_end.set()
        self.most_at_once = 0
        self._at_once = 0
        self._takes_s = takes_s
        self._fails = fails

    async def do(self, token: int) -> Any:
        self.tokens.append(token)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        self.has_begun.set()
        try:
            await asyncio.sleep(self._takes_s)
            await self.may_end.wait()
            if len(self.tokens) <= self._fails:
                raise StoreUnavailable("planted")
            return {"done": token, "parts": [1.5, None]}
        finally:
            self._at_once -= 1


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    own = open_redis(redis_url, timeout_s=5.0)
    yield own
    await own.aclose()


@pytest.fixture
def key() -> str:
    return f"test:{secrets.token_hex(8)}"


@pytest.fixture
def keys(client: Redis) -> Idempotency:
    return Idempotency(client, ttl_s=60.0, lease_s=2.0, wait_s=10.0)


async def test_a_repeat_gets_the_stored_result(keys: Idempotency, key: str) -> None:
    work = Work()
    first = await keys.run(key, ORDER, work.do)
    assert first == Done({"done": 1, "parts": [1.5, None]}, is_repeat=False)
    for _ in range(3):
        assert await keys.run(key, ORDER, work.do) == Done(first.result, is_repeat=True)
    assert work.tokens == [1]


async def test_of_many_at_once_one_writes(keys: Idempotency, key: str) -> None:
    work = Work(takes_s=0.1)
    done = await asyncio.gather(*(keys.run(key, ORDER, work.do) for _ in range(20)))
    assert (work.tokens, work.most_at_once) == ([1], 1)
    assert sorted(one.is_repeat for one in done) == [False] + [True] * 19
    assert all(one.result == {"done": 1, "parts": [1.5, None]} for one in done)


async def test_other_keys_are_not_held_up(keys: Idempotency, key: str) -> None:
    work = Work(takes_s=0.05)
    await asyncio.gather(*(keys.run(f"{key}:{n}", ORDER, work.do) for n in range(10)))
    assert len(work.tokens) == 10


async def test_the_same_key_with_another_request_is_refused(keys: Idempotency, key: str) -> None:
    work = Work(is_held=True)
    writing = asyncio.create_task(keys.run(key, ORDER, work.do))
    await work.has_begun.wait()
    for _ in range(2):
        with pytest.raises(UsageError, match="used with another request"):
            await keys.run(key, fingerprint({"side": "sell"}), work.do)
        work.may_end.set()
        await writing
    assert work.tokens == [1]


async def test_a_repeat_that_has_waited_long_enough_is_told_so(client: Redis, key: str) -> None:
    keys = Idempotency(client, ttl_s=60.0, lease_s=5.0, wait_s=0.1)
    work = Work(is_held=True)
    writing = asyncio.create_task(keys.run(key, ORDER, work.do))
    await work.has_begun.wait()
    with pytest.raises(NotReady, match="in progress") as refusal:
        await keys.run(key, ORDER, work.do)
    work.may_end.set()
    assert refusal.value.retry_after_s is not None
    assert 0.0 < refusal.value.retry_after_s <= 5.0
    assert not (await writing).is_repeat


async def test_a_deadline_bounds_the_wait(keys: Idempotency, key: str) -> None:
    work = Work(is_held=True)
    writing = asyncio.create_task(keys.run(key, ORDER, work.do))
    await work.has_begun.wait()
    started = time.monotonic()
    with deadline(0.1), pytest.raises(NotReady, match="in progress"):
        await keys.run(key, ORDER, Work().do)
    assert time.monotonic() - started < 5.0
    work.may_end.set()
    await writing


async def test_an_operation_that_failed_is_done_by_the_repeat(keys: Idempotency, key: str) -> None:
    work = Work(fails=2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="planted"):
            await keys.run(key, ORDER, work.do)
    assert (await keys.run(key, ORDER, work.do)).result["done"] == 3
    # It is still bound to its request.
    with pytest.raises(UsageError, match="another request"):
        await keys.run(key, fingerprint(None), work.do)


async def test_a_cancelled_writer_frees_the_key_at_once(client: Redis, key: str) -> None:
    keys = Idempotency(client, ttl_s=60.0, lease_s=60.0, wait_s=0.0)
    work = Work(is_held=True)
    writing = asyncio.create_task(keys.run(key, ORDER, work.do))
    await work.has_begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert (await keys.run(key, ORDER, Work().do)).result["done"] == 2


async def test_a_writer_that_lives_keeps_its_claim_beyond_the_lease(client: Redis, key: str) -> None:
    keys = Idempotency(client, ttl_s=0.3, lease_s=0.3, wait_s=10.0)
    work = Work(takes_s=1.2)
    done = await asyncio.gather(*(keys.run(key, ORDER, work.do) for _ in range(3)))
    assert (work.tokens, sum(one.is_repeat for one in done)) == ([1], 2)


def start_writer(url: str, key: str, lease_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "idempotent_writer.py"), url, key, str(lease_s)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


async def test_a_killed_writers_claim_ends_with_its_lease(client: Redis, redis_url: str, key: str) -> None:
    lease_s = 1.0
    writer = start_writer(redis_url, key, lease_s)
    assert writer.stdout is not None
    assert await asyncio.to_thread(writer.stdout.readline) == "claimed 1\n"
    # Alive it renews: the claim outlives its first lease.
    await asyncio.sleep(1.5 * lease_s)
    impatient = Idempotency(client, ttl_s=60.0, lease_s=lease_s, wait_s=0.0)
    with pytest.raises(NotReady, match="in progress"):
        await impatient.run(key, fingerprint({"n": 1}), Work().do)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    patient = Idempotency(client, ttl_s=60.0, lease_s=lease_s, wait_s=10.0)
    work = Work()
    done = await asyncio.gather(*(patient.run(key, fingerprint({"n": 1}), work.do) for _ in range(5)))
    assert (work.tokens, sum(one.is_repeat for one in done)) == ([2], 4)


async def test_a_writer_that_was_overtaken_returns_the_newer_result(client: Redis, key: str) -> None:
    """Its lease ended while it slept, as a frozen process sleeps; the fencing token keeps its result out."""
    keys = Idempotency(client, ttl_s=60.0, lease_s=60.0, wait_s=5.0)
    held, resume = asyncio.Event(), asyncio.Event()

    async def frozen(token: int) -> str:
        held.set()
        await resume.wait()
        return f"of {token}"

    slow = asyncio.create_task(keys.run(key, ORDER, frozen))
    await held.wait()
    await client.hset(f"idem:{key}", "lease_until_ms", "0")

    async def quick(token: int) -> str:
        return f"of {token}"

    assert (await keys.run(key, ORDER, quick)).result == "of 2"
    resume.set()
    assert await slow == Done("of 2", is_repeat=True)


async def test_results_are_forgotten_after_their_time(client: Redis, key: str) -> None:
    keys = Idempotency(client, ttl_s=0.3, lease_s=0.1)
    await keys.run(key, ORDER, Work().do)
    assert 0 < await client.pttl(f"idem:{key}") <= 300
    await asyncio.sleep(0.4)
    assert not (await keys.run(key, ORDER, Work().do)).is_repeat


async def test_without_redis_nothing_is_done(key: str) -> None:
    away = open_redis("redis://127.0.0.1:1/0", timeout_s=0.5)
    work = Work()
    with pytest.raises(StoreUnavailable, match="claim an idempotency key"):
        await Idempotency(away, ttl_s=60.0, lease_s=1.0).run(key, ORDER, work.do)
    assert work.tokens == []
    await away.aclose()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of this test's own, which may be killed."""
    own = ValkeyServer(tmp_path / "redis", tmp_path / "redis.log", free_port(), "secret")
    own.start()
    own.wait()
    yield own
    own.stop()


def kill(server: ValkeyServer) -> None:
    assert server.process is not None
    server.process._child.kill()
    server.process._child.wait()


@pytest.mark.parametrize("outcome", ["done", "failed"])
async def test_a_redis_that_dies_during_the_work_is_said(server: ValkeyServer, outcome: str) -> None:
    client = open_redis(server.url, timeout_s=2.0)
    keys = Idempotency(client, ttl_s=60.0, lease_s=0.3)
    work = Work(is_held=True, fails=outcome == "failed")
    with capture_logs() as logs:
        writing = asyncio.create_task(keys.run("order", ORDER, work.do))
        await work.has_begun.wait()
        kill(server)
        await asyncio.sleep(0.3)
        work.may_end.set()
        said = "was done, but its result could not be stored" if outcome == "done" else "planted"
        with pytest.raises(StoreError, match=said):
            await writing
    told = {line["event"] for line in logs}
    assert told >= {"a claim could not be renewed"}
    assert ("a claim ends with its lease only" in told) == (outcome == "failed")
    # The claim is still there when the server is back, and ends with its lease.
    server.start()
    await asyncio.to_thread(server.wait)
    work.may_end.set()
    assert (await keys.run("order", ORDER, work.do)).result["done"] == 2
    await client.aclose()


async def test_a_writer_hears_that_it_was_overtaken(client: Redis, key: str) -> None:
    keys = Idempotency(client, ttl_s=60.0, lease_s=0.3)
    slow = Work(is_held=True)
    with capture_logs() as logs:
        writing = asyncio.create_task(keys.run(key, ORDER, slow.do))
        await slow.has_begun.wait()
        await client.hincrby(f"idem:{key}", "token", 1)
        await asyncio.sleep(0.4)
        slow.may_end.set()
        # The other writer is gone without a result: its claim ends, and this one does it again.
        assert (await writing).result["done"] == 3
    assert [line["event"] for line in logs] == ["a claim was overtaken"]


async def test_a_result_that_cannot_be_stored_is_said(client: Redis, keys: Idempotency, key: str) -> None:
    async def break_the_key(_: int) -> str:
        await client.set(f"idem:{key}", "somebody else's")
        return "done"

    with pytest.raises(StoreError, match="was done, but its result could not be stored"):
        await keys.run(key, ORDER, break_the_key)


@pytest.mark.parametrize("result", [{1, 2}, float("nan"), object()])
async def test_a_result_that_is_not_json_is_refused(keys: Idempotency, key: str, result: object) -> None:
    async def work(_: int) -> object:
        return result

    with pytest.raises(DataError, match="not JSON"):
        await keys.run(key, ORDER, work)


@pytest.mark.parametrize("wrong", ["", "x" * 201])
async def test_a_key_out_of_its_limits_is_refused(keys: Idempotency, wrong: str) -> None:
    with pytest.raises(UsageError, match="characters, not 1 to 200"):
        await keys.run(wrong, ORDER, Work().do)


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert (
        len({fingerprint(body) for body in (None, {}, [], 0, "", {"a": 1}, {"a": 1.5}, [1, 2], [2, 1])}) == 9
    )
    with pytest.raises(DataError, match="not JSON"):
        fingerprint({"x": float("inf")})


@given(
    result=JSON,
    plan=st.lists(
        st.tuples(st.sampled_from(["ok", "fail", "other"]), st.integers(0, 3)), min_size=1, max_size=8
    ),
)
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_order_there_is_one_result(
    redis_url: str, result: Any, plan: list[tuple[str, int]]
) -> None:
    """Callers begin a few milliseconds apart; some fail, some ask for something else under the same key."""

    async def run_plan() -> None:
        client = open_redis(redis_url, timeout_s=5.0)
        keys = Idempotency(client, ttl_s=30.0, lease_s=5.0, wait_s=10.0)
        key, n_inside, n_done = f"plan:{secrets.token_hex(8)}", 0, 0

        async def call(kind: str, delay: int) -> Done | Exception:
            async def work(token: int) -> Any:
                nonlocal n_inside, n_done
                n_inside += 1
                assert n_inside == 1
                await asyncio.sleep(0.002)
                n_inside -= 1
                if kind == "fail":
                    raise StoreUnavailable("planted")
                n_done += 1
                return [token, result]

            await asyncio.sleep(delay / 1000)
            try:
                return await keys.run(key, fingerprint(kind == "other"), work)
            except (StoreUnavailable, UsageError) as exc:
                return exc

        outcomes = await asyncio.gather(*(call(kind, delay) for kind, delay in plan))
        done = [one for one in outcomes if isinstance(one, Done)]
        assert n_done <= 1
        assert sum(not one.is_repeat for one in done) == n_done
        assert all(one.result == done[0].result and one.result[1] == result for one in done)
        # Who asked for something else than the first one got no answer of his.
        of = {kind == "other" for (kind, _), one in zip(plan, outcomes, strict=True) if isinstance(one, Done)}
        assert len(of) <= 1
        await client.aclose()

    asyncio.run(run_plan())
