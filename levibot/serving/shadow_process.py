"""A model that runs beside the served one, in a process that may hang, crash or eat memory alone."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from levibot.market.bars import FloatArray

# answered; refused: the model, or its version, says why not; timed_out and died: its process was ended.
Outcome = Literal["answered", "refused", "timed_out", "died"]
# The longest line of an answer: no child fills its parent's memory.
MAX_ANSWER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class ShadowAnswer:
    """probability_up, target_position: (S,), NaN = no opinion; empty unless answered. problem: why not."""

    outcome: Outcome
    probability_up: FloatArray
    target_position: FloatArray
    problem: str = ""


class ShadowProcess:
    """One child, started at the first question and again after it has ended. One question at a time.

    command, environment: as of `levibot/serving/shadow_child.py`. start_timeout_s: to load; timeout_s: to
    answer. State: the child.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        start_timeout_s: float,
        timeout_s: float,
    ) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._start_timeout_s = start_timeout_s
        self._timeout_s = timeout_s
        self._child: Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the child; None while there is none."""
        return None if self._child is None else self._child.pid

    async def ask(self, windows: FloatArray) -> ShadowAnswer:
        """What the model says of windows (R, S, F). Raises nothing: every failure is an answer."""
        limit_s = self._start_timeout_s
        try:
            if self._child is None:
                async with asyncio.timeout(limit_s):
                    started = await self._start()
                if "problem" in started:
                    await self.end()
                    return _failed("refused", str(started["problem"]))
            limit_s = self._timeout_s
            async with asyncio.timeout(limit_s):
                said = await self._exchange(windows)
            if "problem" in said:
                return _failed("refused", str(said["problem"]))
            probability, position = (
                np.array(said[name], dtype=np.float64) for name in ("probability_up", "target_position")
            )
            if not probability.shape == position.shape == (windows.shape[1],):
                raise ValueError(f"answers of shape {probability.shape} and {position.shape}")
            return ShadowAnswer("answered", probability, position)
        except TimeoutError:
            await self.end()
            return _failed("timed_out", f"It did not answer within {limit_s:g} s, and was ended.")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as exc:
            code = await self.end()
            return _failed("died", f"Its process ended, code {code}, or answered nonsense: {exc!r}.")
        except asyncio.CancelledError:
            await self.end()
            raise

    async def end(self) -> int | None:
        """End the child; returns its exit code, negative: the signal. None where there was none."""
        child, self._child = self._child, None
        if child is None:
            return None
        if child.returncode is None:
            try:
                # It has a moment to end by what has closed its output; so its own code is told.
                async with asyncio.timeout(0.2):
                    return await child.wait()
            except TimeoutError:
                child.kill()
        return await child.wait()

    async def _start(self) -> dict[str, Any]:
        self._child = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=self._environment, limit=MAX_ANSWER_BYTES
        )
        return await self._answer(self._child)

    async def _exchange(self, windows: FloatArray) -> dict[str, Any]:
        child = self._child
        if child is None or child.stdin is None:
            raise EOFError("it has no process")
        child.stdin.write(json.dumps({"shape": windows.shape}).encode() + b"\n")
        child.stdin.write(np.ascontiguousarray(windows, dtype="<f8").tobytes())
        await child.stdin.drain()
        return await self._answer(child)

    async def _answer(self, child: Process) -> dict[str, Any]:
        if child.stdout is None:
            raise EOFError("it has no output")
        line = await child.stdout.readline()
        if not line:
            raise EOFError("its output has ended")
        said: dict[str, Any] = json.loads(line)
        return said


def _failed(outcome: Outcome, problem: str) -> ShadowAnswer:
    nothing = np.empty(0)
    return ShadowAnswer(outcome, nothing, nothing, problem)
