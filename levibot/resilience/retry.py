"""Calls that are tried again: for errors that a repeat may cure, and never beyond the deadline in force."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, cast

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception
from tenacity.wait import wait_random_exponential

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.resilience.deadline import OutOfTime, remaining_s
from levibot.telemetry.metrics import DEFAULT, Metrics

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

ATTEMPTS = 3
# Full jitter: a wait is drawn from [0, min(longest, first · 2^n)].
FIRST_BACKOFF_S = 0.05
LONGEST_BACKOFF_S = 1.0
# Who is asked to wait longer than this hears the error instead, and decides by himself.
LONGEST_RETRY_AFTER_S = 30.0


def is_transient(exc: BaseException) -> bool:
    """Whether a repeat may cure an error, as ours say of themselves."""
    return isinstance(exc, LeviBotError) and exc.is_transient


def transient_or(foreign: tuple[type[BaseException], ...]) -> Callable[[BaseException], bool]:
    """Whether a repeat may cure an error: ours say so themselves, of others those in `foreign` are."""

    def is_worth_a_repeat(exc: BaseException) -> bool:
        return isinstance(exc, foreign) or is_transient(exc)

    return is_worth_a_repeat


class Retry:
    """Tries an operation up to `attempts` times. A value: holds no state of a call.

    operation: as metrics and messages call it; what is retried must be safe to repeat. is_failure: the errors
    that a repeat may cure; any other, and a cancellation, passes at once. may_repeat: asked before each
    repeat. A wait is a back-off with full jitter, on top of what the error's `retry_after_s` asks for.
    With a deadline in force (`levibot.resilience.deadline`) waits are cut so that an attempt still fits, an
    attempt of a coroutine ends with it, and where no wait could succeed the last error is raised at once.
    unavailable: raised where the deadline has passed before there is any error.
    """

    def __init__(
        self,
        operation: str,
        *,
        attempts: int = ATTEMPTS,
        is_failure: Callable[[BaseException], bool] = is_transient,
        may_repeat: Callable[[], bool] = lambda: True,
        unavailable: type[LeviBotError] = StoreUnavailable,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.operation = operation
        self._attempts = attempts
        self._is_failure = is_failure
        self._unavailable = unavailable
        self._metrics = metrics
        self._backoff = wait_random_exponential(multiplier=FIRST_BACKOFF_S, max=LONGEST_BACKOFF_S)
        options: dict[str, Any] = {
            "stop": self._is_over,
            "wait": self._wait_s,
            # A cancellation is no Exception: nobody can name it among the failures.
            "retry": retry_if_exception(
                lambda exc: isinstance(exc, Exception) and is_failure(exc) and may_repeat()
            ),
            "reraise": True,
        }
        self._retrying = Retrying(**options)
        self._async_retrying = AsyncRetrying(**options)

    async def call(self, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """What `await fn(...)` returns. Raises its last error; `unavailable` when time is up before one."""
        attempts = _Attempts(self)

        async def attempt() -> T:
            with attempts.one() as left_s:
                if left_s is None:
                    return await fn(*args, **kwargs)
                try:
                    async with asyncio.timeout(left_s) as limit:
                        return await fn(*args, **kwargs)
                except TimeoutError as exc:
                    # One that the callee raised by itself is its own error.
                    if not limit.expired():
                        raise
                    raise OutOfTime from exc

        try:
            # A copy: tenacity keeps the state of a call in it, which must not be another's.
            answer: T = await self._async_retrying.copy()(attempt)
        except OutOfTime as exc:
            raise attempts.problem() from exc
        return answer

    def call_blocking(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What `fn(...)` returns, for a function that blocks: an attempt cannot be cut short, waits are."""
        attempts = _Attempts(self)

        def attempt() -> T:
            with attempts.one():
                return fn(*args, **kwargs)

        try:
            answer: T = self._retrying.copy()(attempt)
        except OutOfTime as exc:
            raise attempts.problem() from exc
        return answer

    def _wait_s(self, state: RetryCallState) -> float:
        asked_s, left_s = _asked_s(state), remaining_s()
        backoff_s = self._backoff(state)
        if left_s is not None:
            # Half of what is left is the next attempt's.
            backoff_s = max(0.0, min(backoff_s, (left_s - asked_s) / 2))
        return asked_s + backoff_s

    def _is_over(self, state: RetryCallState) -> bool:
        asked_s, left_s = _asked_s(state), remaining_s()
        cannot_succeed = asked_s > LONGEST_RETRY_AFTER_S or (left_s is not None and left_s <= asked_s)
        return cannot_succeed or state.attempt_number >= self._attempts


class _Attempts:
    """The attempts of one call: how many there were, and the newest error."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._n = 0
        self._last: Exception | None = None

    @contextmanager
    def one(self) -> Iterator[float | None]:
        """Count an attempt by its end. Yields the seconds it has, None without a deadline."""
        left_s = remaining_s()
        if left_s is not None and left_s <= 0.0:
            raise OutOfTime
        self._n += 1
        try:
            yield left_s
        except OutOfTime:
            raise
        except Exception as exc:
            self._last = exc
            self._count("failed" if self._retry._is_failure(exc) else "succeeded")
            raise
        self._count("succeeded")

    def problem(self) -> Exception:
        """What to raise when time is up: the newest error, which says more than that."""
        return self._last or self._retry._unavailable(
            f"The time for {self._retry.operation} was up before there was an answer."
        )

    def _count(self, outcome: str) -> None:
        if self._n > 1:
            self._retry._metrics.retries.labels(self._retry.operation, outcome).inc()


def retry(
    operation: str,
    *,
    attempts: int = ATTEMPTS,
    transient: tuple[type[BaseException], ...] = (),
    unavailable: type[LeviBotError] = StoreUnavailable,
    metrics: Metrics = DEFAULT,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function or coroutine function that is safe to repeat: it is tried again as `Retry` does.

    transient: errors that are not ours and that a repeat may cure; ours say so themselves.
    """
    policy = Retry(
        operation,
        attempts=attempts,
        is_failure=transient_or(transient),
        unavailable=unavailable,
        metrics=metrics,
    )

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def repeated(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await policy.call(fn, *args, **kwargs)

            return cast(Callable[P, R], repeated)

        @functools.wraps(fn)
        def repeated_blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            return policy.call_blocking(fn, *args, **kwargs)

        return repeated_blocking

    return decorate


def _asked_s(state: RetryCallState) -> float:
    """How long the other side asks us to wait."""
    exc = state.outcome.exception() if state.outcome else None
    return (exc.retry_after_s or 0.0) if isinstance(exc, LeviBotError) else 0.0
