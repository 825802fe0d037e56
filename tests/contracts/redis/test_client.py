"""Our Redis client when its server is killed, frozen, restarted, closed to it, full or a replica."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from levibot.errors import SettingsError, StoreError, StoreUnavailable
from levibot.stores.capabilities import Capabilities, ServerCapabilities
from levibot.stores.durable import check_durable, write_durably
from levibot.stores.redis import ask, open_redis
from tests.servers.debian_redis import LOOPBACK, RedisNode, RedisPrograms
from tests.servers.sentinel import OPS

pytestmark = pytest.mark.stores

TIMEOUT_S = 0.5


async def test_a_killed_server_is_unavailable_and_comes_back_with_what_it_acknowledged(
    node: RedisNode,
) -> None:
    node.start()
    client = open_redis(node.url, timeout_s=TIMEOUT_S)
    for value in range(50):
        await ask("write", client.rpush("kept", value))
    node.kill()
    with pytest.raises(StoreUnavailable, match=r"Redis did not answer \(read\)"):
        await ask("read", client.llen("kept"))
    node.start()
    assert await ask("read", client.llen("kept")) == 50
    await client.aclose()


async def test_a_restart_between_two_calls_is_not_noticed(node: RedisNode) -> None:
    node.start()
    client = open_redis(node.url, timeout_s=TIMEOUT_S)
    await asyncio.gather(*(ask("write", client.set(f"k{n}", n)) for n in range(8)))
    node.kill()
    node.start()
    values = await asyncio.gather(*(ask("read", client.get(f"k{n}")) for n in range(8)))
    assert values == [str(n).encode() for n in range(8)]
    await client.aclose()


async def test_a_frozen_server_holds_a_caller_for_a_bounded_time(node: RedisNode) -> None:
    node.start()
    client = open_redis(node.url, timeout_s=TIMEOUT_S)
    await ask("ping", client.ping())
    node.freeze()
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="Timeout"):
        await ask("ping", client.ping())
    # One try on the pooled connection and one on a new one, which has to log in first.
    assert time.monotonic() - start < 10 * TIMEOUT_S
    node.resume()
    assert await ask("ping", client.ping())
    await client.aclose()


async def test_callers_beyond_the_pool_wait_for_a_bounded_time(node: RedisNode) -> None:
    node.start()
    client = open_redis(node.url, timeout_s=TIMEOUT_S, max_connections=1)
    held = asyncio.create_task(client.blpop(["nothing"], timeout=0.3))
    await asyncio.sleep(0.1)
    assert await ask("ping", client.ping())
    assert await held is None
    await client.aclose()


@pytest.mark.parametrize("login", ["", ":wrong-secret@", "stranger:wrong-secret@"])
async def test_a_wrong_login_is_an_answer_that_tells_no_secret(shared_node: RedisNode, login: str) -> None:
    client = open_redis(f"redis://{login}{LOOPBACK}:{shared_node.port}/0", timeout_s=2.0)
    with pytest.raises(StoreError, match=r"refused the login \(ping\)") as refusal:
        await ask("ping", client.ping())
    assert not isinstance(refusal.value, StoreUnavailable)
    assert "wrong-secret" not in str(refusal.value)
    await client.aclose()


async def test_a_full_server_refuses_a_write_and_says_so(programs: RedisPrograms, node: RedisNode) -> None:
    node.config += "maxmemory 4mb\nmaxmemory-policy noeviction\n"
    node.start()
    client = open_redis(node.url, timeout_s=2.0)
    await check_durable(client)
    with pytest.raises(StoreError, match="Redis is full and refused to write") as refusal:
        await fill(client)
    assert not refusal.value.is_transient
    with pytest.raises(StoreError, match="Redis is full and refused to write a dead letter"):
        await write_durably(client, "write a dead letter", lambda pipe: pipe.rpush("dlq:q", b"x" * 100_000))
    assert await ask("read", client.get("k0")) == b"x" * 100_000
    await client.aclose()


async def test_a_replica_takes_no_writes_and_that_passes(node: RedisNode, shared_node: RedisNode) -> None:
    node.config += f"replicaof {LOOPBACK} {shared_node.port}\n"
    node.start()
    client = open_redis(node.url, timeout_s=2.0)
    with pytest.raises(StoreUnavailable, match="takes no writes now") as refusal:
        await ask("write", client.set("x", 1))
    assert refusal.value.is_transient
    await client.aclose()


async def test_a_server_that_evicts_is_refused_for_what_must_be_kept(node: RedisNode) -> None:
    node.config += "maxmemory 50mb\nmaxmemory-policy volatile-ttl\n"
    node.start()
    client = open_redis(node.url, timeout_s=2.0)
    with pytest.raises(
        SettingsError, match="evicts: maxmemory-policy is volatile-ttl with maxmemory 52428800"
    ):
        await check_durable(client)
    await ask("change the policy", client.config_set("maxmemory-policy", "noeviction"))
    await check_durable(client)
    await ask("change the policy", client.config_set("maxmemory-policy", "allkeys-lfu"))
    # Without a limit there is nothing to make room for.
    await ask("change the limit", client.config_set("maxmemory", 0))
    await check_durable(client)
    await client.aclose()


async def test_the_cache_of_ops_makes_room_and_is_refused_for_what_must_be_kept(node: RedisNode) -> None:
    node.config = f'include "{OPS / "cache.conf"}"\nmaxmemory 4mb\n'
    node.start()
    client = open_redis(node.url, timeout_s=2.0)
    await fill(client)
    assert (await client.info("stats"))["evicted_keys"] > 0
    with pytest.raises(SettingsError, match="evicts: maxmemory-policy is allkeys-lfu"):
        await check_durable(client)
    await client.aclose()


async def test_a_durable_write_gives_the_answers_of_its_commands(client: Redis) -> None:
    def queue(pipe: Redis) -> None:
        pipe.delete("letters")
        pipe.rpush("letters", "a", "b")

    assert await write_durably(client, "write", queue) == [0, 2]


async def test_a_durable_write_may_be_a_script_that_the_server_has_forgotten(client: Redis) -> None:
    push = client.register_script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    await client.delete("scripted")
    for length in (1, 2):
        answers = await write_durably(client, "push", lambda pipe: push(["scripted"], ["x"], client=pipe))
        assert answers == [length]
        await client.script_flush()


async def test_a_durable_write_without_its_replica_is_not_acknowledged(client: Redis) -> None:
    with pytest.raises(StoreUnavailable, match=r"0 of 1 replicas confirmed it within 0\.1 s"):
        await write_durably(client, "write", lambda pipe: pipe.set("x", 1), replicas=1, confirm_s=0.1)


async def test_a_refused_command_of_a_durable_write_is_told_without_its_data(client: Redis) -> None:
    await client.set("text", "x")
    with pytest.raises(StoreError, match="WRONGTYPE") as refusal:
        await write_durably(client, "write", lambda pipe: pipe.rpush("text", "a-secret"))
    assert "a-secret" not in str(refusal.value)


async def test_what_the_server_can_do_is_asked_of_it_once(programs: RedisPrograms, client: Redis) -> None:
    asked = ServerCapabilities(client)
    known = await asked.get()
    # Field lives came with Redis 7.4; Debian's is 7.0.
    is_new = programs.name == "valkey"
    assert (known.engine, known.has_field_ttl, known.has_hsetex) == (
        "valkey" if is_new else "redis",
        is_new,
        is_new,
    )
    await client.delete("h")
    await client.hset("h", "f", 1)
    if known.has_field_ttl:
        assert await client.hpexpire("h", 1000, "f") == [1]
    else:
        with pytest.raises(StoreError, match="unknown command"):
            await ask("expire a field", client.hpexpire("h", 1000, "f"))
    assert await asked.get() is known
    assert isinstance(known, Capabilities)


async def test_a_cancelled_task_ends_wherever_it_is_in_a_call(redis_url: str) -> None:
    n_steps, has_ended = 0, False
    while not has_ended:
        client = open_redis(redis_url, timeout_s=2.0)
        task = asyncio.create_task(two_pings(client))
        for _ in range(n_steps):
            await asyncio.sleep(0)
        has_ended = task.done()
        task.cancel()
        await asyncio.wait({task}, timeout=5.0)
        await client.aclose()
        assert has_ended or task.cancelled(), f"the cancellation after {n_steps} steps was lost"
        n_steps += 1
    assert await task == "both were answered"
    # Both connect, write and read, in several steps each.
    assert n_steps > 20


async def two_pings(client: Redis) -> str:
    await client.ping()
    await client.ping()
    return "both were answered"


async def fill(client: Redis) -> None:
    """Write 10 MB."""
    for n in range(100):
        await ask("write", client.set(f"k{n}", b"x" * 100_000))
