"""A circuit breaker: after failures in a row a place is left alone for a while, then tried by one call.

The states are purgatory's; why they are driven from here, and what is shared between processes, is told in
docs/decisions/0016-circuits.md.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import CLOSED, HALF_OPENED, OPENED, Context, HalfOpenedState, OpenedState

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.resilience.circuit_board import CircuitBoard, News
from levibot.resilience.retry import is_transient, transient_or
from levibot.telemetry.metrics import DEFAULT, Metrics

P = ParamSpec("P")
R = TypeVar("R")

FAILURE_THRESHOLD = 5
RESET_S = 60.0
# Other processes are few; a bound all the same, so that a mistake cannot fill the memory.
MAX_DISPROVED = 100

_GAUGE = {CLOSED: 0, HALF_OPENED: 1, OPENED: 2}


class Circuit:
    """The circuit of one place. Safe to use from event loops and threads alike.

    name: the place, as metrics and messages call it. After `failure_threshold` failures in a row the circuit
    is open: for `reset_s` calls are refused at once, then one call at a time tries the place, and its outcome
    closes the circuit or opens it again. is_failure: the errors that speak against the place; any other error
    is an answer, and a cancelled call says nothing. unavailable: what a refused call is told.
    shared: where the processes tell each other. A circuit that opens elsewhere is open here too, until this
    process's own trial; without a board, or with one that nobody reads, it decides alone.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int = FAILURE_THRESHOLD,
        reset_s: float = RESET_S,
        is_failure: Callable[[BaseException], bool] = is_transient,
        unavailable: type[LeviBotError] = StoreUnavailable,
        shared: CircuitBoard | None = None,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self.name = name
        self._reset_s = reset_s
        self._is_failure = is_failure
        self._unavailable = unavailable
        self._shared = shared
        self._metrics = metrics
        self._lock = threading.Lock()
        self._circuit = Context(name, failure_threshold, reset_s)
        self._changes = 0
        self._is_tried = False
        # Whose word opened this circuit, and whose word our own trial has shown to be wrong.
        self._believed = ""
        self._disproved: set[str] = set()
        metrics.circuit_state.labels(name).set(_GAUGE[CLOSED])
        if shared is not None:
            shared.join(self)

    @property
    def state(self) -> str:
        """closed, half-open or opened."""
        return self._circuit.state

    @property
    def is_open(self) -> bool:
        """Whether the circuit was open at the last call; the next call may find that the time is over."""
        return self._circuit.state == OPENED

    def passage(self) -> Passage:
        """`with circuit.passage(): …` is one call through the circuit, which learns how the block ended.

        Entering raises `unavailable` when the circuit is open, or half-open with another call trying it.
        """
        return Passage(self)

    def hear(self, news: News) -> None:
        """What another process says of this place."""
        with self._lock:
            if news.state == CLOSED:
                # Not taken for granted: the next call here is the trial.
                if self._circuit.state == OPENED:
                    self._circuit.set_state(HalfOpenedState())
            elif not (self._is_tried or self._circuit.state == OPENED or news.origin in self._disproved):
                opened = OpenedState(self.name)
                opened.opened_at -= max(0.0, self._reset_s - news.remaining_s)
                self._circuit.set_state(opened)
                self._believed = news.origin
            self._note_changes()

    def _enter(self) -> _Ticket:
        """Admit a call, or raise `unavailable`."""
        with self._lock:
            try:
                self._forgive_a_clock_set_back()
                self._circuit.handle_new_request()
            except OpenedState as refusal:
                # One object for as long as the circuit is open: each raise would lengthen its traceback.
                refusal.__traceback__ = None
                raise self._refusal(refusal.opened_at) from None
            self._note_changes()
            is_trial = self._circuit.state == HALF_OPENED
            if is_trial and self._is_tried:
                raise self._unavailable(
                    f"The circuit of {self.name} is half-open: another call is trying it."
                )
            self._is_tried = is_trial
            return _Ticket(self._changes, is_trial)

    def _leave(self, ticket: _Ticket, exc: BaseException | None) -> None:
        """Tell the circuit how a call ended."""
        with self._lock:
            if ticket.is_trial:
                self._is_tried = False
            if exc is not None and not isinstance(exc, Exception):
                # A cancelled caller says nothing of the place.
                return
            if ticket.changes != self._changes:
                # Begun before the circuit changed: it is not the trial that decides now.
                return
            if exc is not None and self._is_failure(exc):
                self._believed = ""
                self._disproved.clear()
                self._circuit.handle_exception(exc)
            else:
                self._circuit.handle_end_request()
                if ticket.is_trial and self._believed and len(self._disproved) < MAX_DISPROVED:
                    # What ails that process is its own way to the place, not the place.
                    self._disproved.add(self._believed)
            if self._note_changes() and self._shared is not None:
                self._shared.announce(self.name, self._circuit.state, self._reset_s)

    def _note_changes(self) -> bool:
        has_changed = False
        while self._circuit.messages:
            if isinstance(self._circuit.messages.pop(0), ContextChanged):
                has_changed = True
                self._changes += 1
                self._metrics.circuit_state.labels(self.name).set(_GAUGE[self._circuit.state])
        return has_changed

    def _forgive_a_clock_set_back(self) -> None:
        # purgatory compares instants of the wall clock.
        state = self._circuit._state
        if isinstance(state, OpenedState):
            state.opened_at = min(state.opened_at, time.time())

    def _refusal(self, opened_at: float) -> LeviBotError:
        wait_s = max(0.0, opened_at + self._reset_s - time.time())
        return self._unavailable(f"The circuit of {self.name} is open; it is tried again in {wait_s:.1f} s.")


@dataclass(frozen=True, slots=True)
class _Ticket:
    """How a call was admitted. changes: of the circuit's state until then."""

    changes: int
    is_trial: bool


class Passage:
    """One call's way through a circuit, which learns how the call ended, whatever the end."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit

    def __enter__(self) -> None:
        self._ticket = self._circuit._enter()

    def __exit__(
        self, _: type[BaseException] | None, exc: BaseException | None, __: TracebackType | None
    ) -> None:
        self._circuit._leave(self._ticket, exc)


def circuit_breaker(
    name: str,
    failure_threshold: int = FAILURE_THRESHOLD,
    reset_s: float = RESET_S,
    *,
    transient: tuple[type[BaseException], ...] = (),
    unavailable: type[LeviBotError] = StoreUnavailable,
    shared: CircuitBoard | None = None,
    metrics: Metrics = DEFAULT,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function or coroutine function: its calls go through one `Circuit`.

    transient: errors that are not ours and speak against the place; ours say so themselves.
    """
    circuit = Circuit(
        name,
        failure_threshold=failure_threshold,
        reset_s=reset_s,
        is_failure=transient_or(transient),
        unavailable=unavailable,
        shared=shared,
        metrics=metrics,
    )

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def passed(*args: P.args, **kwargs: P.kwargs) -> Any:
                with circuit.passage():
                    return await fn(*args, **kwargs)

            return cast(Callable[P, R], passed)

        @functools.wraps(fn)
        def passed_blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            with circuit.passage():
                return fn(*args, **kwargs)

        return passed_blocking

    return decorate
