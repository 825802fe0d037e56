"""A child that answers windows with numbers, in a process that may hang, crash or eat memory alone."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

import levibot
from levibot.market.bars import FloatArray
from levibot.settings import Settings, child_environment

# refused: the model, or its version, says why not; timed_out and died: its process was ended.
Failing = Literal["refused", "timed_out", "died"]
# The longest line of an answer: no child fills its parent's memory.
MAX_ANSWER_BYTES = 1024 * 1024
# To import and load on a busy node; after a failure it rests as long as a refused version does.
START_TIMEOUT_S, PAUSE_S = 60.0, 30.0
_T = TypeVar("_T")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer, the problem in one sentence."""

    outcome: Failing
    problem: str


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment of a child that runs a model: it is told the settings, and computes in one thread."""
    return child_environment(settings, PYTHONPATH=str(Path(levibot.__file__).parents[1]), **_ONE_THREAD)


class ChildProcess:
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

    async def start(self) -> Failure | None:
        """Have the child loaded, if it is not; why it is not. Raises nothing."""
        if self._child is not None:
            return None
        started = await self._ended_by_failure(self._start(), self._start_timeout_s)
        if isinstance(started, dict) and "problem" in started:
            await self.end()
            return Failure("refused", str(started["problem"]))
        return started if isinstance(started, Failure) else None

    async def ask(self, windows: FloatArray, names: Sequence[str] = ()) -> dict[str, FloatArray] | Failure:
        """What the child says of windows (R, S, F): arrays (S,) by name, NaN = no opinion. Raises nothing.

        names: that must be there; without any, those that the child gives.
        """
        failure = await self.start()
        if failure is not None:
            return failure
        said = await self._ended_by_failure(self._exchange(windows, names), self._timeout_s)
        if isinstance(said, dict) and "problem" in said:
            return Failure("refused", str(said["problem"]))
        return said

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

    async def _ended_by_failure(self, asking: Coroutine[Any, Any, _T], limit_s: float) -> _T | Failure:
        """What comes of it within `limit_s`; where nothing does, the child is ended."""
        try:
            async with asyncio.timeout(limit_s):
                return await asking
        except TimeoutError:
            await self.end()
            return Failure("timed_out", f"It did not answer within {limit_s:g} s, and was ended.")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as exc:
            code = await self.end()
            return Failure("died", f"Its process ended, code {code}, or answered nonsense: {exc!r}.")
        except asyncio.CancelledError:
            await self.end()
            raise

    async def _start(self) -> dict[str, Any]:
        self._child = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, env=self._environment, limit=MAX_ANSWER_BYTES
        )
        return await self._answer(self._child)

    async def _exchange(self, windows: FloatArray, names: Sequence[str]) -> dict[str, Any]:
        child = self._child
        if child is None or child.stdin is None:
            raise EOFError("it has no process")
        child.stdin.write(json.dumps({"shape": windows.shape}).encode() + b"\n")
        child.stdin.write(np.ascontiguousarray(windows, dtype="<f8").tobytes())
        await child.stdin.drain()
        said = await self._answer(child)
        if "problem" in said:
            return said
        arrays = {name: np.array(said[name], dtype=np.float64) for name in names or said}
        shapes = [array.shape for array in arrays.values()]
        if any(shape != (windows.shape[1],) for shape in shapes):
            raise ValueError(f"answers of shape {' and '.join(map(str, shapes))}")
        return arrays

    async def _answer(self, child: Process) -> dict[str, Any]:
        if child.stdout is None:
            raise EOFError("it has no output")
        line = await child.stdout.readline()
        if not line:
            raise EOFError("its output has ended")
        said: dict[str, Any] = json.loads(line)
        return said
