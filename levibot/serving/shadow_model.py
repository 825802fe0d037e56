"""Hands the newest cross-sections to one shadow model, and drops what it does not get round to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from levibot.serving.cross_section import CrossSection
from levibot.serving.shadow_process import ShadowAnswer, ShadowProcess
from levibot.telemetry.metrics import DEFAULT, Metrics


class ShadowModel:
    """A version beside the served one. State: the cross-section that waits, one at most, and the last answer.

    tell: gets every answer with what was asked. pause_s: after a failure, so that a model which dies at once
    does not spend a core on being loaded.
    """

    def __init__(
        self,
        version: str,
        process: ShadowProcess,
        tell: Callable[[str, CrossSection, ShadowAnswer], None],
        *,
        pause_s: float,
        metrics: Metrics = DEFAULT,
    ) -> None:
        self._version = version
        self._process = process
        self._tell = tell
        self._pause_s = pause_s
        self._asked = metrics.shadow_model_asked
        self._waiting: CrossSection | None = None
        self._offered = asyncio.Event()
        self.last: ShadowAnswer | None = None

    def offer(self, section: CrossSection) -> None:
        """Have it answered when the model is free. A newer one takes the place of one that still waits."""
        if self._waiting is not None:
            self._asked.labels(self._version, "dropped").inc()
        self._waiting = section
        self._offered.set()

    async def run(self) -> None:
        """Ask about what is offered, until cancelled; the process ends with it."""
        try:
            while True:
                await self._offered.wait()
                self._offered.clear()
                section, self._waiting = self._waiting, None
                if section is None:
                    continue
                answer = await self._process.ask(section.windows)
                self.last = answer
                self._asked.labels(self._version, answer.outcome).inc()
                self._tell(self._version, section, answer)
                if answer.outcome != "answered":
                    await asyncio.sleep(self._pause_s)
        finally:
            await self._process.end()
