"""The router's side of a deployment of members: deadlines, reasons and circuits; no Ray runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from deployments import holder
from deployments.holder import MembersHandle
from levibot.errors import NotReady, RegistryError, StoreUnavailable
from levibot.learning.blending import LearnedOpinion
from levibot.resilience.deadline import deadline
from levibot.serving.member_panel import Absence

WINDOW = np.zeros((2, 1, 3))
HALF = np.full((1, 1), 0.5)
SAID = {"lstm": LearnedOpinion(HALF, HALF, HALF)}


def in_the_replica(cause: Exception) -> RayTaskError:
    """As Ray brings across what a replica raised."""
    error: RayTaskError = RayTaskError("say", "Traceback of the replica", cause).as_instanceof_cause()
    return error


@dataclass
class Method:
    remote: Callable[..., Awaitable[object]]


class Replica:
    """Stands in for a deployment's handle: questions take `answers` in turn, the last for ever."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.n_asked = 0
        self.say = self.load = Method(self._answer)

    async def _answer(self, *_: object) -> object:
        self.n_asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def handle_of(*answers: object) -> tuple[MembersHandle, Replica]:
    replica = Replica(*answers)
    return MembersHandle(("lstm",), replica), replica  # type: ignore[arg-type]


async def reason_of(members: MembersHandle) -> str:
    answer = await members.say("v1.0.0", WINDOW)
    assert isinstance(answer, Absence)
    assert answer.problem.endswith(".")
    return answer.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "not_loaded"),
        (ActorDiedError(), "crashed"),
        (in_the_replica(ZeroDivisionError("planted")), "failed"),
        (BackPressureError(num_queued_requests=64, max_queued_requests=64), "overloaded"),
    ],
)
async def test_why_a_member_is_absent_is_told(answer: object, reason: str) -> None:
    members, replica = handle_of(answer, SAID)
    assert await reason_of(members) == reason
    assert replica.n_asked == 1
    assert await members.say("v1.0.0", WINDOW) == SAID


async def test_a_member_that_hangs_is_waited_for_its_deadline_twice_and_then_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holder, "SAY_TIMEOUT_S", 0.05)
    monkeypatch.setattr(holder, "SAY_RESET_S", 0.5)
    thawed = asyncio.Event()
    members, replica = handle_of(thawed, thawed, SAID)
    asked = [await reason_of(members) for _ in range(4)]
    assert asked == ["deadline_passed", "deadline_passed", "circuit_open", "circuit_open"]
    assert replica.n_asked == 2
    await asyncio.sleep(0.6)
    assert await members.say("v1.0.0", WINDOW) == SAID


async def test_a_replica_that_is_still_loading_opens_no_circuit() -> None:
    members, _ = handle_of(None, None, None, SAID)
    for _ in range(3):
        assert await reason_of(members) == "not_loaded"
    assert await members.say("v1.0.0", WINDOW) == SAID


async def test_what_a_replica_says_of_a_version_is_raised_as_its_own_error() -> None:
    broken = RegistryError("model.txt of version v1.0.0 is not what was published.")
    members, _ = handle_of(in_the_replica(broken))
    with pytest.raises(RegistryError, match="not what was published"):
        await members.say("v1.0.0", WINDOW)
    with pytest.raises(RegistryError, match="not what was published"):
        await members.load("v1.0.0")
    members, replica = handle_of(in_the_replica(StoreUnavailable("s3://models did not answer.")))
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await members.load("v1.0.0")
    assert replica.n_asked == 1


async def test_loading_waits_for_a_replica_that_starts_and_does_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members, replica = handle_of(ActorDiedError(), ActorDiedError(), None)
    await members.load("v1.0.0")
    assert replica.n_asked == 3
    monkeypatch.setattr(holder, "LOAD_TIMEOUT_S", 0.2)
    members, _ = handle_of(asyncio.Event())
    with pytest.raises(NotReady):
        await members.load("v1.0.0")


async def test_a_load_that_takes_long_makes_no_question_wait() -> None:
    members, replica = handle_of(SAID)
    hangs = asyncio.Event()
    replica.load = Method(lambda *_: hangs.wait())
    loading = asyncio.create_task(members.load("v1.0.1"))
    await asyncio.sleep(0)
    with deadline(1.0):
        assert await members.say("v1.0.0", WINDOW) == SAID
    assert not loading.done()
    hangs.set()
    await loading
