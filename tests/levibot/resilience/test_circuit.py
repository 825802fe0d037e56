"""The circuit breaker: one process, threads, and two processes that share a board."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import DataError, NotReady, StoreUnavailable
from levibot.resilience.circuit import Circuit, circuit_breaker
from levibot.resilience.circuit_board import CircuitBoard, News
from levibot.stores.redis import open_redis
from levibot.stores.server_process import free_port
from levibot.stores.valkey_server import ValkeyServer
from levibot.telemetry.metrics import Metrics

RESET_S = 0.1
HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def gauge(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("levibot_circuit_state", {"name": "place"})


def fail(circuit: Circuit) -> None:
    with pytest.raises(StoreUnavailable, match="planted"), circuit.passage():
        raise StoreUnavailable("planted")


def succeed(circuit: Circuit) -> None:
    with circuit.passage():
        pass


def is_refused(circuit: Circuit) -> bool:
    try:
        succeed(circuit)
    except StoreUnavailable:
        return True
    return False


def make(metrics: Metrics, **options: object) -> Circuit:
    given: dict[str, object] = {"failure_threshold": 3, "reset_s": RESET_S, "metrics": metrics}
    return Circuit("place", **(given | options))  # type: ignore[arg-type]


# One process


@pytest.mark.parametrize("kind", ["coroutine", "blocking"])
def test_the_decorator_opens_refuses_and_closes(metrics: Metrics, kind: str) -> None:
    breaker = circuit_breaker("place", failure_threshold=2, reset_s=RESET_S, metrics=metrics)
    is_down, n_calls = True, 0

    def place(x: int) -> int:
        nonlocal n_calls
        n_calls += 1
        if is_down:
            raise StoreUnavailable("planted")
        return x

    async def place_soon(x: int) -> int:
        await asyncio.sleep(0)
        return place(x)

    blocking, coroutine = breaker(place), breaker(place_soon)

    def ask(x: int) -> int:
        return blocking(x) if kind == "blocking" else asyncio.run(coroutine(x))

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="planted"):
            ask(1)
    assert gauge(metrics) == 2
    with pytest.raises(StoreUnavailable, match="circuit of place is open"):
        ask(1)
    assert n_calls == 2
    time.sleep(RESET_S * 1.5)
    is_down = False
    assert ask(7) == 7
    assert gauge(metrics) == 0


def test_the_decorated_function_keeps_its_name(metrics: Metrics) -> None:
    @circuit_breaker("place", metrics=metrics)
    def read() -> None:
        """Reads."""

    assert (read.__name__, read.__doc__) == ("read", "Reads.")


def test_foreign_errors_count_only_where_they_are_named(metrics: Metrics) -> None:
    @circuit_breaker("place", 1, 60.0, transient=(ConnectionError,), unavailable=NotReady, metrics=metrics)
    def read(exc: Exception) -> None:
        raise exc

    for _ in range(3):
        with pytest.raises(ValueError, match="slip"):
            read(ValueError("slip"))
        with pytest.raises(DataError):
            read(DataError("bad"))
    with pytest.raises(ConnectionError):
        read(ConnectionError())
    with pytest.raises(NotReady, match="open"):
        read(ConnectionError())


def test_of_many_threads_one_is_the_trial(metrics: Metrics) -> None:
    circuit = make(metrics)
    for _ in range(3):
        fail(circuit)
    time.sleep(RESET_S * 1.5)
    n_inside, gate, all_asked = 0, threading.Event(), threading.Barrier(16)

    def ask() -> str:
        nonlocal n_inside
        all_asked.wait()
        try:
            with circuit.passage():
                n_inside += 1
                gate.wait(10.0)
                return "inside"
        except StoreUnavailable:
            return "refused"

    with ThreadPoolExecutor(16) as threads:
        asking = [threads.submit(ask) for _ in range(16)]
        while sum(future.done() for future in asking) < 15:
            time.sleep(0.01)
        gate.set()
    outcomes = sorted(future.result() for future in asking)
    assert (outcomes, n_inside) == (["inside"] + ["refused"] * 15, 1)
    assert circuit.state == "closed"


def test_a_wall_clock_that_is_set_back_does_not_keep_it_open(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = make(metrics, reset_s=0.2)
    for _ in range(3):
        fail(circuit)
    now, shift_s = time.time, -3600.0
    monkeypatch.setattr(time, "time", lambda: now() + shift_s)
    assert is_refused(circuit)
    time.sleep(0.3)
    assert not is_refused(circuit)


# What other processes say


def test_an_opening_elsewhere_opens_it_here_for_what_is_left(metrics: Metrics) -> None:
    circuit = make(metrics, reset_s=60.0)
    circuit.hear(News("opened", "other", 0.2))
    assert is_refused(circuit)
    assert gauge(metrics) == 2
    time.sleep(0.3)
    assert not is_refused(circuit)
    assert circuit.state == "closed"


def test_a_closing_elsewhere_allows_a_trial_and_no_more(metrics: Metrics) -> None:
    circuit = make(metrics, reset_s=60.0)
    for _ in range(3):
        fail(circuit)
    circuit.hear(News("closed", "other", 60.0))
    assert (circuit.state, gauge(metrics)) == ("half-opened", 1)
    fail(circuit)
    assert circuit.state == "opened"


def test_a_closing_elsewhere_means_nothing_to_a_closed_circuit(metrics: Metrics) -> None:
    circuit = make(metrics)
    circuit.hear(News("closed", "other", 60.0))
    assert circuit.state == "closed"


def test_a_process_whose_word_was_wrong_is_not_believed_again(metrics: Metrics) -> None:
    circuit = make(metrics, reset_s=60.0)
    circuit.hear(News("opened", "cut off", 0.0))
    time.sleep(0.01)
    succeed(circuit)
    circuit.hear(News("opened", "cut off", 60.0))
    assert not is_refused(circuit)
    circuit.hear(News("opened", "another", 60.0))
    assert is_refused(circuit)


def test_a_failure_of_its_own_makes_it_listen_again(metrics: Metrics) -> None:
    circuit = make(metrics, reset_s=60.0)
    circuit.hear(News("opened", "other", 0.0))
    time.sleep(0.01)
    succeed(circuit)
    fail(circuit)
    circuit.hear(News("opened", "other", 60.0))
    assert is_refused(circuit)


def test_an_opening_elsewhere_does_not_decide_a_trial_under_way(metrics: Metrics) -> None:
    circuit = make(metrics)
    for _ in range(3):
        fail(circuit)
    time.sleep(RESET_S * 1.5)
    with circuit.passage():
        circuit.hear(News("opened", "other", 60.0))
    assert circuit.state == "closed"


# Two processes and a server


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


@pytest.mark.stores
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


@pytest.mark.stores
async def test_what_could_not_be_told_is_told_once_redis_is_back(
    server: ValkeyServer, metrics: Metrics
) -> None:
    clients = [open_redis(server.url, timeout_s=1.0) for _ in range(2)]
    async with CircuitBoard(clients[0]) as first, CircuitBoard(clients[1]) as second:
        one = make(metrics, reset_s=60.0, shared=first)
        other = make(metrics, reset_s=60.0, shared=second)
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


@pytest.mark.stores
async def test_a_circuit_that_is_gone_is_not_told(redis_url: str, metrics: Metrics) -> None:
    client = open_redis(redis_url, timeout_s=2.0)
    board = CircuitBoard(client)
    circuit = make(metrics, shared=board)
    assert len(board._circuits["place"]) == 1
    del circuit
    assert len(board._circuits["place"]) == 0
    await board.exchange()
    await client.aclose()
