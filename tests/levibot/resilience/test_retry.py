"""Retries and deadlines, for coroutines and for functions that block. Each fault is raised by a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from levibot.errors import DataError, LeviBotError, NotReady, RateLimited, StoreError, StoreUnavailable
from levibot.resilience.deadline import deadline, remaining_s
from levibot.resilience.guard import Guard
from levibot.resilience.retry import retry
from levibot.telemetry.metrics import Metrics


class Script:
    """Answers each call by its next line; an error is raised."""

    def __init__(self, *lines: object) -> None:
        self.lines = list(lines)
        self.n_calls = 0

    def answer(self, *args: object) -> object:
        self.n_calls += 1
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return (line, *args) if args else line


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture(params=["coroutine", "blocking"])
def run(request: pytest.FixtureRequest, metrics: Metrics) -> Callable[..., object]:
    """Runs a script's answer under `@retry`, as a coroutine function and as a plain one."""

    def run_script(script: Script, *args: object, **options: object) -> object:
        if request.param == "blocking":

            @retry("read", metrics=metrics, **options)  # type: ignore[arg-type]
            def read(*given: object) -> object:
                return script.answer(*given)

            return read(*args)

        @retry("read", metrics=metrics, **options)  # type: ignore[arg-type]
        async def read_soon(*given: object) -> object:
            await asyncio.sleep(0)
            return script.answer(*given)

        return asyncio.run(read_soon(*args))

    return run_script


def n_retries(metrics: Metrics, outcome: str) -> float | None:
    labels = {"operation": "read", "outcome": outcome}
    return metrics.registry.get_sample_value("levibot_retries_total", labels)


def test_a_transient_error_is_tried_again(run: Callable[..., object], metrics: Metrics) -> None:
    script = Script(StoreUnavailable("away"), RateLimited("slow down"), "yes")
    assert run(script, 1) == ("yes", 1)
    assert (n_retries(metrics, "failed"), n_retries(metrics, "succeeded")) == (1, 1)


def test_three_attempts_and_no_more(run: Callable[..., object], metrics: Metrics) -> None:
    script = Script(*[StoreUnavailable(f"away {n}") for n in range(9)])
    with pytest.raises(StoreUnavailable, match="away 2"):
        run(script)
    assert script.n_calls == 3
    assert (n_retries(metrics, "failed"), n_retries(metrics, "succeeded")) == (2, None)


@pytest.mark.parametrize(
    "error", [DataError("bad"), StoreError("refused"), NotReady("not yet"), ValueError("slip"), OSError()]
)
def test_an_error_that_is_not_transient_is_never_retried(
    run: Callable[..., object], metrics: Metrics, error: Exception
) -> None:
    script = Script(error, "yes")
    with pytest.raises(type(error)):
        run(script)
    assert script.n_calls == 1
    assert n_retries(metrics, "failed") is None


def test_a_foreign_error_is_retried_where_the_caller_names_it(run: Callable[..., object]) -> None:
    script = Script(ConnectionError(), "yes")
    assert run(script, transient=(ConnectionError,)) == "yes"


def test_the_wait_that_is_asked_for_is_kept(run: Callable[..., object]) -> None:
    started = time.monotonic()
    assert run(Script(RateLimited("slow down", retry_after_s=0.3), "yes")) == "yes"
    assert time.monotonic() - started >= 0.3


def test_who_is_asked_to_wait_too_long_hears_it_at_once(run: Callable[..., object]) -> None:
    script = Script(RateLimited("come back tomorrow", retry_after_s=86_400.0), "yes")
    with pytest.raises(RateLimited, match="tomorrow"):
        run(script)
    assert script.n_calls == 1


def test_a_wait_that_does_not_fit_the_deadline_is_not_begun(run: Callable[..., object]) -> None:
    script, started = Script(RateLimited("slow down", retry_after_s=5.0), "yes"), time.monotonic()
    with deadline(2.0), pytest.raises(RateLimited, match="slow down"):
        run(script)
    assert (script.n_calls, time.monotonic() - started < 2.0) == (1, True)


def test_back_offs_are_cut_to_the_deadline(run: Callable[..., object]) -> None:
    # 40 attempts without a cut wait about 18 s.
    script, started = Script(*[StoreUnavailable("away")] * 40), time.monotonic()
    with deadline(0.3), pytest.raises(StoreUnavailable, match="away"):
        run(script, attempts=40)
    assert time.monotonic() - started < 2.0
    assert script.n_calls > 2


def test_nothing_is_begun_after_the_deadline(run: Callable[..., object]) -> None:
    script = Script("yes")
    with deadline(0.0), pytest.raises(NotReady, match=r"time for read was up before there was an answer"):
        run(script, unavailable=NotReady)
    assert script.n_calls == 0


def test_an_inner_deadline_never_lengthens_an_outer_one() -> None:
    assert remaining_s() is None
    with deadline(1.0):
        with deadline(60.0):
            left_s = remaining_s()
            assert left_s is not None
            assert left_s <= 1.0
        with deadline(0.1):
            left_s = remaining_s()
            assert left_s is not None
            assert left_s <= 0.1
    assert remaining_s() is None


async def test_a_task_inherits_the_deadline_and_ends_with_it(metrics: Metrics) -> None:
    n_calls = 0

    @retry("read", metrics=metrics)
    async def hang() -> None:
        nonlocal n_calls
        n_calls += 1
        await asyncio.Event().wait()

    with deadline(0.1):
        task = asyncio.create_task(hang())
    with pytest.raises(StoreUnavailable, match="time for read was up"):
        await asyncio.wait_for(task, 5.0)
    assert n_calls == 1


async def test_the_last_error_is_told_rather_than_that_time_is_up(metrics: Metrics) -> None:
    script = Script(StoreUnavailable("away"))

    @retry("read", metrics=metrics)
    async def fail_then_hang() -> object:
        if script.lines:
            return script.answer()
        return await asyncio.Event().wait()

    with deadline(0.3), pytest.raises(StoreUnavailable, match="away"):
        await fail_then_hang()


async def test_a_timeout_of_the_callee_is_not_the_deadline(metrics: Metrics) -> None:
    @retry("read", metrics=metrics)
    async def raise_by_itself() -> None:
        raise TimeoutError("its own")

    with deadline(60.0), pytest.raises(TimeoutError, match="its own"):
        await raise_by_itself()


async def test_a_cancelled_call_is_never_retried(metrics: Metrics) -> None:
    n_calls = 0

    @retry("read", transient=(asyncio.CancelledError,), metrics=metrics)
    async def hang() -> None:
        nonlocal n_calls
        n_calls += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (n_calls, n_retries(metrics, "failed")) == (1, None)


async def test_a_call_cancelled_in_its_back_off_ends(metrics: Metrics) -> None:
    script = Script(RateLimited("slow down", retry_after_s=20.0), "yes")

    @retry("read", metrics=metrics)
    async def read() -> object:
        return script.answer()

    task = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert script.n_calls == 1


async def test_concurrent_calls_do_not_share_their_attempts(metrics: Metrics) -> None:
    scripts = [Script(*[StoreUnavailable("away")] * (n % 3), "yes") for n in range(30)]

    @retry("read", metrics=metrics)
    async def read(script: Script) -> object:
        await asyncio.sleep(0)
        return script.answer()

    assert await asyncio.gather(*(read(script) for script in scripts)) == ["yes"] * 30
    assert [script.n_calls for script in scripts] == [n % 3 + 1 for n in range(30)]


async def test_a_guard_ends_with_the_deadline_and_does_not_blame_the_place(metrics: Metrics) -> None:
    guard = Guard("place", timeout_s=5.0, failure_threshold=1, transient=(), metrics=metrics)
    for _ in range(3):
        with deadline(0.05), pytest.raises(StoreUnavailable, match="time for place was up"):
            await guard.call(asyncio.Event().wait)
    assert guard.state == "closed"


async def test_a_guard_waits_as_the_place_asks(metrics: Metrics) -> None:
    script = Script(RateLimited("slow down", retry_after_s=0.3), "yes")
    guard = Guard("place", timeout_s=5.0, transient=(LeviBotError,), metrics=metrics)

    async def read() -> object:
        return script.answer()

    started = time.monotonic()
    assert await guard.call(read) == "yes"
    assert time.monotonic() - started >= 0.3
