"""The guard of outgoing calls. The places it guards here are coroutines that answer by a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import DataError, NotReady, StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.telemetry.metrics import Metrics

RESET_S = 0.1
Build = Callable[..., Guard]


class Place:
    """Answers each call by the next line of its script: an error is raised, None never answers."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.n_calls = 0

    async def ask(self, *args: object) -> object:
        self.n_calls += 1
        answer = self.script.pop(0) if self.script else "late line"
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        if isinstance(answer, BaseException):
            raise answer
        return (answer, *args) if args else answer


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def build(metrics: Metrics) -> Build:
    def build_guard(**changes: object) -> Guard:
        options: dict[str, object] = {
            "timeout_s": 5.0,
            "attempts": 1,
            "failure_threshold": 3,
            "reset_s": RESET_S,
            "transient": (ConnectionError, StoreUnavailable),
            "metrics": metrics,
        }
        return Guard("place", **(options | changes))  # type: ignore[arg-type]

    return build_guard


def gauge(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("levibot_circuit_state", {"name": "place"})


def n_retries(metrics: Metrics, outcome: str) -> float | None:
    labels = {"operation": "place", "outcome": outcome}
    return metrics.registry.get_sample_value("levibot_retries_total", labels)


async def open_circuit(guard: Guard) -> None:
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await guard.call(Place(ConnectionError("down")).ask)
    assert guard.state == "opened"


async def test_an_answer_passes_with_its_arguments(build: Build, metrics: Metrics) -> None:
    assert await build().call(Place("yes").ask, 1, "two") == ("yes", 1, "two")
    assert gauge(metrics) == 0


async def test_a_transient_error_is_tried_again(build: Build, metrics: Metrics) -> None:
    place = Place(ConnectionError(), ConnectionError(), "yes")
    assert await build(attempts=3).call(place.ask) == "yes"
    assert (n_retries(metrics, "failed"), n_retries(metrics, "succeeded")) == (1, 1)


async def test_attempts_are_bounded(build: Build, metrics: Metrics) -> None:
    place = Place(*[ConnectionError("no route")] * 9)
    with pytest.raises(StoreUnavailable, match="place failed: no route"):
        await build(attempts=2).call(place.ask)
    assert place.n_calls == 2
    assert (n_retries(metrics, "failed"), n_retries(metrics, "succeeded")) == (1, None)


async def test_an_error_that_a_repeat_does_not_cure_passes_at_once(build: Build, metrics: Metrics) -> None:
    place = Place(DataError("bad bar"), "yes")
    with pytest.raises(DataError, match="bad bar"):
        await build(attempts=3).call(place.ask)
    assert place.n_calls == 1
    assert n_retries(metrics, "failed") is None


async def test_errors_that_are_answers_do_not_open_the_circuit(build: Build) -> None:
    guard = build()
    for _ in range(10):
        with pytest.raises(StoreError, match="refused"):
            await guard.call(Place(StoreError("refused")).ask)
    assert guard.state == "closed"


async def test_our_own_transient_error_keeps_its_words(build: Build) -> None:
    with pytest.raises(StoreUnavailable, match=r"^Redis did not answer\.$"):
        await build().call(Place(StoreUnavailable("Redis did not answer.")).ask)


async def test_each_attempt_has_its_own_time(build: Build) -> None:
    place = Place(None, "yes")
    assert await build(timeout_s=0.02, attempts=2).call(place.ask) == "yes"
    with pytest.raises(StoreUnavailable, match=r"place did not answer within 0\.02 s"):
        await build(timeout_s=0.02).call(Place(None).ask)


async def test_a_timeout_that_the_place_raised_is_its_own_error(build: Build) -> None:
    place = Place(TimeoutError("of the place"), "yes")
    with pytest.raises(TimeoutError, match="of the place"):
        await build(attempts=3).call(place.ask)
    assert place.n_calls == 1


async def test_failures_in_a_row_open_the_circuit(build: Build, metrics: Metrics) -> None:
    guard, place = build(reset_s=60.0), Place("never asked")
    await open_circuit(guard)
    assert gauge(metrics) == 2
    with pytest.raises(
        StoreUnavailable, match=r"The circuit of place is open; it is tried again in \d+\.\d s"
    ):
        await guard.call(place.ask)
    assert place.n_calls == 0


async def test_an_answer_between_failures_keeps_the_circuit_closed(build: Build) -> None:
    guard = build()
    for _ in range(4):
        for outcome in (ConnectionError(), ConnectionError(), "yes"):
            if isinstance(outcome, ConnectionError):
                with pytest.raises(StoreUnavailable):
                    await guard.call(Place(outcome).ask)
            else:
                await guard.call(Place(outcome).ask)
    assert guard.state == "closed"


async def test_time_outs_open_the_circuit(build: Build) -> None:
    guard = build(timeout_s=0.01)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await guard.call(Place(None).ask)
    assert guard.state == "opened"


async def test_no_attempt_follows_the_one_that_opened_the_circuit(build: Build) -> None:
    place = Place(*[ConnectionError("down")] * 9)
    with pytest.raises(StoreUnavailable, match="place failed: down"):
        await build(attempts=9).call(place.ask)
    assert place.n_calls == 3


async def test_the_circuit_closes_when_the_trial_succeeds(build: Build, metrics: Metrics) -> None:
    guard = build()
    await open_circuit(guard)
    await asyncio.sleep(RESET_S * 1.5)
    assert await guard.call(Place("yes").ask) == "yes"
    assert (guard.state, gauge(metrics)) == ("closed", 0)


async def test_the_circuit_opens_again_when_the_trial_fails(build: Build, metrics: Metrics) -> None:
    guard = build()
    await open_circuit(guard)
    await asyncio.sleep(RESET_S * 1.5)
    with pytest.raises(StoreUnavailable, match="still down"):
        await guard.call(Place(ConnectionError("still down")).ask)
    assert (guard.state, gauge(metrics)) == ("opened", 2)


async def test_one_call_at_a_time_tries_a_half_open_circuit(build: Build, metrics: Metrics) -> None:
    guard, gate = build(), asyncio.Event()
    await open_circuit(guard)
    await asyncio.sleep(RESET_S * 1.5)
    trial = asyncio.create_task(guard.call(Place(gate).ask))
    await asyncio.sleep(0)
    assert (guard.state, gauge(metrics)) == ("half-opened", 1)
    others = [Place("yes") for _ in range(5)]
    for other in others:
        with pytest.raises(StoreUnavailable, match="half-open: another call is trying it"):
            await guard.call(other.ask)
    gate.set()
    await trial
    assert (guard.state, [other.n_calls for other in others]) == ("closed", [0] * 5)


async def test_a_cancelled_trial_decides_nothing_and_frees_its_place(build: Build) -> None:
    guard = build()
    await open_circuit(guard)
    await asyncio.sleep(RESET_S * 1.5)
    trial = asyncio.create_task(guard.call(Place(None).ask))
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert guard.state == "half-opened"
    assert await guard.call(Place("yes").ask) == "yes"
    assert guard.state == "closed"


async def test_a_cancelled_caller_is_not_a_failure(build: Build, metrics: Metrics) -> None:
    guard = build(attempts=3)
    for _ in range(10):
        place = Place(None)
        caller = asyncio.create_task(guard.call(place.ask))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert place.n_calls == 1
    assert (guard.state, n_retries(metrics, "failed")) == ("closed", None)


@pytest.mark.parametrize("end", ["late answer", ConnectionError("late failure")])
async def test_a_call_from_before_the_circuit_opened_does_not_decide_the_trial(
    build: Build, end: object
) -> None:
    guard, gate, trial_gate = build(), asyncio.Event(), asyncio.Event()

    async def slow() -> object:
        await gate.wait()
        if isinstance(end, ConnectionError):
            raise end
        return end

    early = asyncio.create_task(guard.call(slow))
    await asyncio.sleep(0)
    await open_circuit(guard)
    await asyncio.sleep(RESET_S * 1.5)
    trial = asyncio.create_task(guard.call(Place(trial_gate).ask))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(early, return_exceptions=True)
    assert guard.state == "half-opened"
    trial_gate.set()
    await trial
    assert guard.state == "closed"


async def test_the_error_in_place_of_an_answer_is_the_callers_choice(build: Build) -> None:
    guard = build(unavailable=NotReady, failure_threshold=1, reset_s=60.0)
    with pytest.raises(NotReady, match="down"):
        await guard.call(Place(ConnectionError("down")).ask)
    with pytest.raises(NotReady, match="circuit of place is open"):
        await guard.call(Place("yes").ask)


async def test_concurrent_calls_do_not_share_their_attempts(build: Build, metrics: Metrics) -> None:
    guard = build(attempts=3, failure_threshold=100)
    places = [Place(*[ConnectionError()] * (n % 3), "yes") for n in range(30)]
    assert await asyncio.gather(*(guard.call(place.ask) for place in places)) == ["yes"] * 30
    assert [place.n_calls for place in places] == [n % 3 + 1 for n in range(30)]
    assert (n_retries(metrics, "failed"), n_retries(metrics, "succeeded")) == (10, 20)


async def test_a_call_that_begins_during_anothers_back_off_leaves_it_alone(
    build: Build, metrics: Metrics
) -> None:
    guard = build(attempts=2)
    waiting = asyncio.create_task(guard.call(Place(ConnectionError(), "yes").ask))
    await asyncio.sleep(0)
    assert await guard.call(Place("at once").ask) == "at once"
    assert await waiting == "yes"
    assert (n_retries(metrics, "failed"), n_retries(metrics, "succeeded")) == (None, 1)
