"""A call that leaves the process: a time-out for each attempt, a retry, a circuit breaker.

What to do when the guard gives up, the fallback, is the caller's: it knows what a missing answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.resilience.circuit import Circuit
from levibot.resilience.circuit_board import CircuitBoard
from levibot.resilience.retry import Retry
from levibot.telemetry.metrics import DEFAULT, Metrics

T = TypeVar("T")


class _TimedOut(Exception):
    """An attempt took longer than the guard allows."""


class Guard:
    """Guards the calls to one place, for one event loop. State: the circuit of that place.

    name: the place, as metrics and messages call it. timeout_s: for each attempt. attempts: at most so many;
    what is guarded must be safe to repeat. transient: the errors that a repeat may cure; these and time-outs
    count as failures, any other error is an answer. After `failure_threshold` failures in a row the circuit
    is open: for `reset_s` calls are refused at once, then one call at a time tries the place, and its outcome
    closes the circuit or opens it again. unavailable: what is raised in place of an answer.
    shared: where the processes tell each other of their circuits, None for a circuit of this process alone.
    A deadline in force (`levibot.resilience.deadline`) ends the call when it passes, and says nothing of the
    place.
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
        shared: CircuitBoard | None = None,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._failures: tuple[type[BaseException], ...] = (*transient, _TimedOut)
        self._unavailable = unavailable
        self._circuit = Circuit(
            name,
            failure_threshold=failure_threshold,
            reset_s=reset_s,
            is_failure=self._is_failure,
            unavailable=unavailable,
            shared=shared,
            metrics=metrics,
        )
        self._retry = Retry(
            name,
            attempts=attempts,
            is_failure=self._is_failure,
            # A circuit that has just opened would refuse the repeat.
            may_repeat=lambda: not self._circuit.is_open,
            unavailable=unavailable,
            metrics=metrics,
        )

    @property
    def state(self) -> str:
        """closed, half-open or opened."""
        return self._circuit.state

    async def call(self, fn: Callable[..., Awaitable[T]], *args: object) -> T:
        """What `await fn(*args)` returns.

        Raises `unavailable` when the circuit is open, when the last attempt took too long, when the deadline
        in force passed, or in place of a transient error that is not one of LeviBot's own. Any other error
        passes as it is.
        """
        try:
            return await self._retry.call(self._attempt, fn, args)
        except _TimedOut as exc:
            raise self._unavailable(f"{self.name} did not answer within {self._timeout_s:g} s.") from exc
        except self._failures as exc:
            if isinstance(exc, LeviBotError):
                raise
            reason = str(exc) or type(exc).__name__
            raise self._unavailable(f"{self.name} failed: {reason}.") from exc

    async def _attempt(self, fn: Callable[..., Awaitable[T]], args: tuple[object, ...]) -> T:
        with self._circuit.passage():
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    return await fn(*args)
            except TimeoutError as exc:
                # One that the callee raised by itself is its own error.
                if not limit.expired():
                    raise
                raise _TimedOut from exc

    def _is_failure(self, exc: BaseException) -> bool:
        return isinstance(exc, self._failures)
