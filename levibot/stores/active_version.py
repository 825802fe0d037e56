"""Which model version serves, as those that serve follow it."""

from __future__ import annotations

import asyncio
import time

import structlog

from levibot.clock import Clock, SystemClock
from levibot.errors import StoreUnavailable
from levibot.resilience.fallback import Answered
from levibot.resilience.guard import Guard
from levibot.stores.registry import Registry
from levibot.telemetry.metrics import DEFAULT, Metrics

log = structlog.get_logger()


class ActiveVersion:
    """Follows the registry's pointer, for one event loop. State: the last answer and when it was true.

    A registry far away is asked at most once in its `poll_s`. While it does not answer, the last answer
    stands: a model that serves goes on serving.
    """

    def __init__(
        self, registry: Registry, *, timeout_s: float, clock: Clock | None = None, metrics: Metrics = DEFAULT
    ) -> None:
        self._registry = registry
        self._clock = clock or SystemClock()
        self._known: Answered[str | None] | None = None
        self._asked_at = -float("inf")
        # The next poll is the repeat.
        self._guard = Guard(
            "registry", timeout_s=timeout_s, attempts=1, transient=(StoreUnavailable,), metrics=metrics
        )

    async def get(self) -> Answered[str | None]:
        """The version that serves, None before the first activation; `link` is registry or memory.

        Raises RegistryError when the pointer is broken, StoreUnavailable when the registry does not answer
        and never has.
        """
        now_s = time.monotonic()
        if self._known is not None and now_s - self._asked_at < self._registry.files.poll_s:
            return self._aged(self._known)
        self._asked_at = now_s
        try:
            version = await self._guard.call(asyncio.to_thread, self._registry.active)
        except StoreUnavailable as exc:
            if self._known is None:
                raise
            known = self._aged(self._known)
            if not self._known.is_fallback:
                log.warning("the registry does not answer", kept=known.value, reason=str(exc))
            self._known = Answered(known.value, "memory", known.as_of, known.age_s, (str(exc),))
            return self._known
        if self._known is not None and self._known.is_fallback:
            log.info("the registry answers again", version=version)
        self._known = Answered(version, "registry", self._clock.now(), 0.0)
        return self._known

    def _aged(self, known: Answered[str | None]) -> Answered[str | None]:
        age_s = max(0.0, (self._clock.now() - known.as_of).total_seconds())
        return Answered(known.value, known.link, known.as_of, age_s, known.problems)
