"""The learned members of a canary, in a process of their own: it shares none with the version that serves."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

from levibot.errors import NotReady, RegistryError
from levibot.learning.blending import LearnedOpinion
from levibot.market.bars import FloatArray
from levibot.serving.child_process import PAUSE_S, START_TIMEOUT_S, ChildProcess, Failure, environment_of
from levibot.serving.member_panel import Absence, Reason
from levibot.settings import Settings

_PARTS = "opinion", "probability_up", "score"
_REASONS: Mapping[str, Reason] = {"timed_out": "deadline_passed", "died": "crashed", "refused": "failed"}


def numbers_of(said: Mapping[str, LearnedOpinion]) -> dict[str, FloatArray]:
    """What was said of one row, (1, S), as the child tells it: (S,) by kind and part."""
    return {f"{kind}.{part}": getattr(one, part)[0] for kind, one in said.items() for part in _PARTS}


def opinions_of(numbers: Mapping[str, FloatArray]) -> dict[str, LearnedOpinion]:
    """What `numbers_of` told, again. Raises KeyError where a part is not there."""
    kinds = dict.fromkeys(name.partition(".")[0] for name in numbers)
    return {kind: LearnedOpinion(*(numbers[f"{kind}.{part}"][None] for part in _PARTS)) for kind in kinds}


class CanaryProcess:
    """A `Holder` of every kind of members of one version. State: its process, and until when it rests.

    After a failure it rests `pause_s` and is not asked: a version that dies at once does not spend a core on
    being loaded.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        process: ChildProcess,
        *,
        pause_s: float = PAUSE_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kinds = tuple(kinds)
        self._process = process
        self._pause_s = pause_s
        self._now_s = now_s
        self._rests_until = -float("inf")

    @classmethod
    def of(cls, settings: Settings, version: str, kinds: Sequence[str], timeout_s: float) -> CanaryProcess:
        """With the memory of a shadow model. timeout_s: in which it answers, or is ended."""
        command = sys.executable, "-m", "levibot.serving.canary_child", version
        process = ChildProcess(
            (*command, str(settings.shadow_memory_mb)),
            environment_of(settings),
            start_timeout_s=START_TIMEOUT_S,
            timeout_s=timeout_s,
        )
        return cls(kinds, process)

    async def load(self, version: str) -> None:
        """As `Holder` says."""
        if self._now_s() < self._rests_until:
            raise NotReady(f"The process of {version} rests after a failure.")
        failure = await self._process.start()
        if failure is None:
            return
        self._rest()
        if failure.outcome == "refused":
            raise RegistryError(failure.problem)
        raise NotReady(f"The process of {version} was not loaded. {failure.problem}")

    async def say(self, version: str, window: FloatArray) -> Mapping[str, LearnedOpinion] | Absence:
        """As `Holder` says."""
        if self._now_s() < self._rests_until:
            return Absence("circuit_open", f"The process of {version} rests after a failure.")
        said = await self._process.ask(window)
        if isinstance(said, Failure):
            self._rest()
            return Absence(_REASONS[said.outcome], said.problem)
        try:
            return opinions_of(said)
        except KeyError as exc:
            await self._process.end()
            self._rest()
            return Absence("failed", f"The process of {version} answered nonsense: {exc!r}.")

    async def close(self) -> None:
        """End the process."""
        await self._process.end()

    def _rest(self) -> None:
        self._rests_until = self._now_s() + self._pause_s
