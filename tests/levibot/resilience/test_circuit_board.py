"""Circuits that processes share through a real server, and that go on without it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import StoreUnavailable
from levibot.resilience.circuit import Circuit
from levibot.resilience.circuit_board import CircuitBoard
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def make(board: CircuitBoard) -> Circuit:
    metrics = Metrics(CollectorRegistry())
    return Circuit("place", failure_threshold=3, reset_s=60.0, shared=board, metrics=metrics)


def fail(circuit: Circuit) -> None:
    with pytest.raises(StoreUnavailable, match="planted"), circuit.passage():
        raise StoreUnavailable("planted")


class Member:
    """A process with a circuit on the board."""

    def __init__(self, url: str, reset_s: float) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, str(HERE / "circuit_process.py"), url, str(reset_s)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment
        )
        assert self.read() == "ready"

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        return self.read()

    def end(self) -> None:
        self.process.communicate("\n", timeout=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server of this test's own, which may be killed."""
    own = ValkeyServer(tmp_path / "redis", tmp_path / "redis.log", free_port(), "secret")
    own.start()
    own.wait()
    yield own
    own.stop()


@pytest.fixture
def start() -> Iterator[Callable[[str, float], Member]]:
    members: list[Member] = []

    def start_member(url: str, reset_s: float) -> Member:
        members.append(Member(url, reset_s))
        return members[-1]

    yield start_member
    for member in members:
        member.end()


def seconds_until(condition: Callable[[], bool], limit_s: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < limit_s, f"it did not happen within {limit_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - started


def test_processes_share_a_circuit_and_go_on_without_redis(
    server: ValkeyServer, start: Callable[[str, float], Member]
) -> None:
    one, other = start(server.url, 1.5), start(server.url, 1.5)
    assert [one.ask("fail") for _ in range(3)] == ["failed"] * 3
    # The goal is a second; here twice that, for a busy machine.
    assert seconds_until(lambda: other.ask("state") == "opened") < 2.0
    assert other.ask("succeed") == "refused"
    seconds_until(lambda: other.ask("succeed") == "succeeded")
    assert other.ask("state") == "closed"
    # What the other has found out lets the first one try, and it closes too.
    seconds_until(lambda: one.ask("succeed") == "succeeded")

    assert server.process is not None
    server.process._child.kill()
    server.process._child.wait()
    assert [one.ask("fail") for _ in range(3)] == ["failed"] * 3
    assert (one.ask("fail"), one.ask("state")) == ("refused", "opened")
    assert (other.ask("succeed"), other.ask("state")) == ("succeeded", "closed")
    assert seconds_until(lambda: one.ask("succeed") == "succeeded") < 5.0
    assert [other.ask("fail") for _ in range(3)] == ["failed"] * 3
    assert other.ask("succeed") == "refused"


async def test_what_could_not_be_told_is_told_once_redis_is_back(server: ValkeyServer) -> None:
    clients = [open_redis(server.url, timeout_s=1.0) for _ in range(2)]
    async with CircuitBoard(clients[0]) as first, CircuitBoard(clients[1]) as second:
        one = make(first)
        other = make(second)
        assert server.process is not None
        server.process._child.kill()
        server.process._child.wait()
        await asyncio.to_thread(lambda: [fail(one) for _ in range(3)])
        await asyncio.sleep(0.5)
        assert other.state == "closed"
        server.start()
        await asyncio.to_thread(server.wait)
        await asyncio.to_thread(seconds_until, lambda: other.state == "opened", 20.0)
    for client in clients:
        await client.aclose()


async def test_a_circuit_that_is_gone_is_not_told(redis_url: str) -> None:
    client = open_redis(redis_url, timeout_s=2.0)
    board = CircuitBoard(client)
    circuit = make(board)
    assert len(board._circuits["place"]) == 1
    del circuit
    assert len(board._circuits["place"]) == 0
    await board.exchange()
    await client.aclose()


async def test_what_is_announced_while_an_older_word_is_being_written_is_not_forgotten(
    redis_url: str,
) -> None:
    client = open_redis(redis_url, timeout_s=5.0)
    board = CircuitBoard(client)
    board.announce("twice", "opened", 60.0)
    writing = asyncio.create_task(board.exchange())
    await asyncio.sleep(0)
    board.announce("twice", "closed", 60.0)
    await writing
    await board.exchange()
    stored = await client.get("circuit:twice")
    assert isinstance(stored, bytes)
    assert stored.startswith(b"closed:")
    await client.aclose()
