"""The circuit breaker in one process: coroutines, threads, and what it makes of other processes' news."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import DataError, NotReady, StoreUnavailable
from levibot.resilience.circuit import Circuit, circuit_breaker
from levibot.resilience.circuit_board import News
from levibot.telemetry.metrics import Metrics

RESET_S = 0.1


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
