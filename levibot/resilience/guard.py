"""A call that leaves the process: a time-out for each attempt, a retry, a circuit breaker.

What to do when the guard gives up, the fallback, is the caller's: it knows what a missing answer means.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import CLOSED, HALF_OPENED, OPENED, Context, OpenedState
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.telemetry.metrics import DEFAULT, Metrics

T = TypeVar("T")

# Full jitter: a wait is drawn from [0, min(longest, first · 2^n)].
FIRST_BACKOFF_S = 0.05
LONGEST_BACKOFF_S = 1.0

_GAUGE = {CLOSED: 0, HALF_OPENED: 1, OPENED: 2}


class _TimedOut(Exception):
    """An attempt took longer than the guard allows."""


class Guard:
    """Guards the calls to one place, for one event loop. State: the circuit of that place.

    name: the place, as metrics and messages call it. timeout_s: for each attempt. attempts: at most so many;
    what is guarded must be safe to repeat. transient: the errors that a repeat may cure; these and time-outs
    count as failures, any other error is an answer. After `failure_threshold` failures in a row the circuit
    is open: for `reset_s` calls are refused at once, then one call at a time tries the place, and its outcome
    closes the circuit or opens it again. unavailable: what is raised in place of an answer.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float,
        attempts: int = 3,
        failure_threshold: int = 5,
        reset_s: float = 5.0,
        transient: tuple[type[BaseException], ...],
        unavailable: type[LeviBotError] = StoreUnavailable,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._reset_s = reset_s
        self._failures: tuple[type[BaseException], ...] = (*transient, _TimedOut)
        self._unavailable = unavailable
        self._metrics = metrics
        # purgatory's own breaker lets every caller through while half-open, counts a cancelled caller as a
        # failure, and would take the late answer of a call from before the circuit opened for the trial's. So
        # its states are driven from here.
        self._circuit = Context(name, failure_threshold, reset_s)
        self._changes = 0
        self._is_tried = False
        self._retrying = AsyncRetrying(
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=FIRST_BACKOFF_S, max=LONGEST_BACKOFF_S),
            retry=retry_if_exception(self._is_worth_a_retry),
            reraise=True,
        )
        metrics.circuit_state.labels(name).set(_GAUGE[CLOSED])

    @property
    def state(self) -> str:
        """closed, half-open or opened."""
        return self._circuit.state

    async def call(self, fn: Callable[..., Awaitable[T]], *args: object) -> T:
        """What `await fn(*args)` returns.

        Raises `unavailable` when the circuit is open, when the last attempt took too long, or in place of a
        transient error that is not one of LeviBot's own. Any other error passes as it is.
        """
        # A copy: the state of one call's retries must not be another's.
        retrying = self._retrying.copy()
        try:
            answer: T = await retrying(self._attempt, retrying, fn, args)
        except _TimedOut as exc:
            raise self._unavailable(f"{self.name} did not answer within {self._timeout_s:g} s.") from exc
        except self._failures as exc:
            if isinstance(exc, LeviBotError):
                raise
            reason = str(exc) or type(exc).__name__
            raise self._unavailable(f"{self.name} failed: {reason}.") from exc
        return answer

    async def _attempt(
        self, retrying: AsyncRetrying, fn: Callable[..., Awaitable[T]], args: tuple[object, ...]
    ) -> T:
        with _Passage(self, is_retry=retrying.statistics["attempt_number"] > 1):
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    return await fn(*args)
            except TimeoutError as exc:
                # One that the callee raised by itself is its own error.
                if not limit.expired():
                    raise
                raise _TimedOut from exc

    def _enter(self, is_retry: bool) -> _Ticket:
        """Admit an attempt, or raise `unavailable`."""
        try:
            self._circuit.handle_new_request()
        except OpenedState as refusal:
            # It is one object for as long as the circuit is open: each raise would lengthen its traceback.
            refusal.__traceback__ = None
            raise self._refusal(refusal.opened_at) from None
        self._publish()
        is_trial = self._circuit.state == HALF_OPENED
        if is_trial and self._is_tried:
            raise self._unavailable(f"The circuit of {self.name} is half-open: another call is trying it.")
        self._is_tried = is_trial
        return _Ticket(self._changes, is_trial, is_retry)

    def _leave(self, ticket: _Ticket, exc: BaseException | None) -> None:
        """Tell the circuit how an attempt ended."""
        if ticket.is_trial:
            self._is_tried = False
        if exc is not None and not isinstance(exc, Exception):
            # A cancelled caller says nothing of the place.
            return
        has_failed = isinstance(exc, self._failures)
        if ticket.is_retry:
            self._metrics.retries.labels(self.name, "failed" if has_failed else "succeeded").inc()
        if ticket.changes != self._changes:
            # Begun before the circuit changed: it is not the trial that decides now.
            return
        if exc is not None and has_failed:
            self._circuit.handle_exception(exc)
        else:
            self._circuit.handle_end_request()
        self._publish()

    def _publish(self) -> None:
        while self._circuit.messages:
            message = self._circuit.messages.pop(0)
            if isinstance(message, ContextChanged):
                self._changes += 1
                self._metrics.circuit_state.labels(self.name).set(_GAUGE[self._circuit.state])

    def _refusal(self, opened_at: float) -> LeviBotError:
        wait_s = max(0.0, opened_at + self._reset_s - time.time())
        return self._unavailable(f"The circuit of {self.name} is open; it is tried again in {wait_s:.1f} s.")

    def _is_worth_a_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, self._failures) and self._circuit.state != OPENED


@dataclass(frozen=True, slots=True)
class _Ticket:
    """How an attempt was admitted. changes: of the circuit's state until then."""

    changes: int
    is_trial: bool
    is_retry: bool


class _Passage:
    """One attempt's way through the circuit, which learns how the attempt ended, whatever the end."""

    def __init__(self, guard: Guard, *, is_retry: bool) -> None:
        self._guard = guard
        self._is_retry = is_retry

    def __enter__(self) -> None:
        self._ticket = self._guard._enter(self._is_retry)

    def __exit__(
        self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None
    ) -> None:
        self._guard._leave(self._ticket, exc)
