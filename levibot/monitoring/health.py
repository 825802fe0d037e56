"""How every dependency is: looked at in the background, so that the answer waits for none of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from levibot.errors import LeviBotError, StoreUnavailable
from levibot.resilience.dependencies import DEPENDENCIES, Dependency
from levibot.resilience.guard import Guard
from levibot.telemetry.metrics import DEFAULT, Metrics

EVERY_S = 1.0
TIMEOUT_S = 1.0
# For the end of a question that was given up.
GRACE_S = 0.2
# A look is due every EVERY_S and takes TIMEOUT_S at most: an older one says nothing of now.
LONGEST_AGE_S = 10.0
WORST = ("closed", "half-opened", "opened")
log = structlog.get_logger()

# Asks a dependency; returns what ails it, empty when it is well. Raises when it does not answer.
Probe = Callable[[], Awaitable[str]]


class State(StrEnum):
    """How a dependency is. UNKNOWN: it was not looked at lately."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """One dependency at one instant.

    latency_ms: of the last look, None where none ended with an answer. age_s: since that look ended, None
    before the first. circuit: the worst of the circuits that lead there from this process.
    """

    dependency: Dependency
    state: State
    latency_ms: float | None
    age_s: float | None
    circuit: str


@dataclass(frozen=True, slots=True)
class _Look:
    is_up: bool
    latency_ms: float | None
    ended_at: float


class HealthWatch:
    """Looks at each dependency every `every_s`. State: the last look at each.

    probes: by the dependency's name, one for each. circuits: the states of further circuits that lead there.
    transient: errors that are not ours and say that a dependency does not answer.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        circuits: Mapping[str, Callable[[], str]],
        *,
        transient: tuple[type[BaseException], ...] = (),
        every_s: float = EVERY_S,
        timeout_s: float = TIMEOUT_S,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._probes = dict(probes)
        self._circuits = circuits
        self._every_s = every_s
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._looks: dict[str, _Look] = {}
        self._asking: dict[str, asyncio.Task[str]] = {}
        # Its fallback is what it is for: the dependency is called down.
        self._guards = {
            name: Guard(
                f"health:{name}",
                timeout_s=timeout_s,
                attempts=1,
                failure_threshold=3,
                reset_s=2 * every_s,
                transient=(StoreUnavailable, *transient),
                metrics=metrics,
            )
            for name in probes
        }

    async def run(self) -> None:
        """Look until cancelled. One dependency that hangs delays no other."""
        try:
            await asyncio.gather(*(self._follow(name) for name in self._probes))
        finally:
            for asking in self._asking.values():
                asking.cancel()

    def report(self) -> list[Health]:
        """All dependencies in their order, as they were when they were last looked at. Waits for nothing."""
        return [self._health(dependency) for dependency in DEPENDENCIES]

    async def look(self, name: str) -> None:
        """Look at one dependency now."""
        problem, latency_ms = await self._ask(name)
        before = self._looks.get(name)
        if problem and (before is None or before.is_up):
            log.warning("a dependency is down", dependency=name, reason=problem)
        elif not problem and before is not None and not before.is_up:
            log.info("a dependency is back", dependency=name)
        self._looks[name] = _Look(not problem, latency_ms, time.monotonic())
        self._metrics.dependency_up.labels(name).set(float(not problem))

    async def _ask(self, name: str) -> tuple[str, float | None]:
        """What ails a dependency, empty when it is well, and the milliseconds of its answer."""
        started, probe = time.perf_counter(), self._probes[name]
        # What is cancelled may hang all the same, where a client tells a frozen server that it gives up.
        asking = self._asking.get(name)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._guards[name].call(probe))
            self._asking[name] = asking
        await asyncio.wait({asking}, timeout=self._timeout_s + GRACE_S)
        if not asking.done():
            return "An earlier question has no end yet.", None
        del self._asking[name]
        try:
            return asking.result(), 1000 * (time.perf_counter() - started)
        except LeviBotError as exc:
            return str(exc), None

    async def _follow(self, name: str) -> None:
        while True:
            try:
                await self.look(name)
            except Exception as exc:
                # A probe with a fault of its own must not end the watch of the others.
                log.error("a dependency could not be looked at", dependency=name, exc_info=exc)
                self._looks[name] = _Look(False, None, time.monotonic())
            await asyncio.sleep(self._every_s)

    def _health(self, dependency: Dependency) -> Health:
        name = dependency.name
        look = self._looks.get(name)
        circuits = [self._guards[name].state] if name in self._guards else []
        if name in self._circuits:
            circuits.append(self._circuits[name]())
        circuit = max(circuits, key=WORST.index, default=WORST[0])
        if look is None:
            return Health(dependency, State.UNKNOWN, None, None, circuit)
        age_s = time.monotonic() - look.ended_at
        state = State.UNKNOWN if age_s > LONGEST_AGE_S else State.UP if look.is_up else State.DOWN
        return Health(dependency, state, look.latency_ms, age_s, circuit)
