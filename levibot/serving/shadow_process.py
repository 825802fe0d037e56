"""A model that runs beside the served one, in a process of its own, as those who watch it see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from levibot.market.bars import FloatArray
from levibot.serving.child_process import ChildProcess, Failing, Failure

# answered, or why not.
Outcome = Literal["answered"] | Failing
_NUMBERS = "probability_up", "target_position"


@dataclass(frozen=True, slots=True, eq=False)
class ShadowAnswer:
    """probability_up, target_position: (S,), NaN = no opinion; empty unless answered. problem: why not."""

    outcome: Outcome
    probability_up: FloatArray
    target_position: FloatArray
    problem: str = ""


class ShadowProcess:
    """A child that says what a whole model says. The arguments as of `ChildProcess`, which is its state."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        start_timeout_s: float,
        timeout_s: float,
    ) -> None:
        self._child = ChildProcess(command, environment, start_timeout_s=start_timeout_s, timeout_s=timeout_s)

    @property
    def pid(self) -> int | None:
        """Of the child; None while there is none."""
        return self._child.pid

    async def ask(self, windows: FloatArray) -> ShadowAnswer:
        """What the model says of windows (R, S, F). Raises nothing: every failure is an answer."""
        said = await self._child.ask(windows, _NUMBERS)
        if isinstance(said, Failure):
            nothing = np.empty(0)
            return ShadowAnswer(said.outcome, nothing, nothing, said.problem)
        return ShadowAnswer("answered", said["probability_up"], said["target_position"])

    async def end(self) -> int | None:
        """End the child; returns its exit code, negative: the signal. None where there was none."""
        return await self._child.end()
