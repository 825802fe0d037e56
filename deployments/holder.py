"""A deployment of members, as the router calls it: asked with a deadline, loaded with patience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from levibot.errors import LeviBotError, NotReady
from levibot.learning.blending import LearnedOpinion
from levibot.market.bars import FloatArray
from levibot.resilience.deadline import deadline
from levibot.resilience.guard import Guard
from levibot.serving.member_panel import Absence, Reason

# What a bar waits for a member, once; after two that failed it is left alone for a while.
SAY_TIMEOUT_S, SAY_FAILURES, SAY_RESET_S = 2.0, 2, 5.0
# To fetch, check and read the files of a version, from a replica that may be starting at this moment.
LOAD_TIMEOUT_S, LOAD_ATTEMPTS = 60.0, 60


class MembersHandle:
    """A holder of members behind Ray Serve. Its guards are its own: one that hangs holds no other."""

    def __init__(self, kinds: tuple[str, ...], handle: DeploymentHandle[Any]) -> None:
        self.kinds = kinds
        self._handle = handle
        name = "members:" + "+".join(kinds)
        away = RayError, RayServeException
        self._saying = Guard(
            name,
            timeout_s=SAY_TIMEOUT_S,
            attempts=1,
            failure_threshold=SAY_FAILURES,
            reset_s=SAY_RESET_S,
            transient=away,
            unavailable=NotReady,
        )
        # The deadline of a load ends it, not the number of its attempts.
        self._loading = Guard(
            f"{name}:load",
            timeout_s=LOAD_TIMEOUT_S,
            attempts=LOAD_ATTEMPTS,
            failure_threshold=LOAD_ATTEMPTS,
            transient=away,
            unavailable=NotReady,
        )

    async def load(self, version: str) -> None:
        """As `Holder` says. A replica that is starting is waited for too."""
        with deadline(LOAD_TIMEOUT_S):
            await self._loading.call(self._remote_load, version)

    async def say(self, version: str, window: FloatArray) -> Mapping[str, LearnedOpinion] | Absence:
        """As `Holder` says."""
        was_asked = False

        async def _remote_say() -> Mapping[str, LearnedOpinion] | None:
            nonlocal was_asked
            was_asked = True
            try:
                said: Mapping[str, LearnedOpinion] | None = await self._handle.say.remote(version, window)
            except RayTaskError as exc:
                raise _own(exc) from None
            return said

        try:
            said = await self._saying.call(_remote_say)
        except NotReady as exc:
            return Absence(_reason(exc.__cause__) if was_asked else "circuit_open", exc.message)
        if said is None:
            return Absence("not_loaded", f"{self._saying.name} is still loading {version}.")
        return said

    async def _remote_load(self, version: str) -> None:
        try:
            await self._handle.load.remote(version)
        except RayTaskError as exc:
            raise _own(exc) from None


def _own(exc: RayTaskError) -> Exception:
    """What a replica says of a version is an answer, and no failure of the replica."""
    return exc.cause if isinstance(exc.cause, LeviBotError) else exc


def _reason(cause: BaseException | None) -> Reason:
    if isinstance(cause, BackPressureError):
        return "overloaded"
    if isinstance(cause, RayActorError):
        return "crashed"
    return "failed" if isinstance(cause, RayError | RayServeException) else "deadline_passed"
