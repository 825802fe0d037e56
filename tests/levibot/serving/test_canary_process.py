"""The members of a canary in a process of their own, which may do what it likes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import NotReady, RegistryError
from levibot.learning.blending import LearnedOpinion
from levibot.serving.canary_process import CanaryProcess, numbers_of, opinions_of
from levibot.serving.child_process import ChildProcess
from levibot.serving.member_panel import Absence

ROOT = Path(__file__).parents[3]
GOOD, BAD = np.array([[[0.25], [np.nan]]]), np.array([[[-0.25], [np.nan]]])


def process(*command: str, timeout_s: float = 20.0) -> ChildProcess:
    return ChildProcess(
        (sys.executable, *command),
        {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_timeout_s=60.0,
        timeout_s=timeout_s,
    )


def test_what_the_members_say_crosses_the_pipe_as_it_is() -> None:
    row = np.array([[0.1 + 0.2, np.nan]])
    said = {"lightgbm": LearnedOpinion(row, row / 3.0, -row), "lstm": LearnedOpinion(-row, row, row)}
    back = opinions_of(numbers_of(said))
    assert list(back) == ["lightgbm", "lstm"]
    for kind, opinion in said.items():
        for part in ("opinion", "probability_up", "score"):
            np.testing.assert_array_equal(getattr(back[kind], part), getattr(opinion, part))


async def test_one_that_hangs_is_ended_and_rests_before_it_is_loaded_again() -> None:
    now_s = 0.0
    child = process("-m", "tests.servers.shadow_child", "hangs", timeout_s=1.0)
    members = CanaryProcess(("lightgbm",), child, pause_s=30.0, now_s=lambda: now_s)
    try:
        await members.load("v1.1.0")
        late = await members.say("v1.1.0", BAD)
        assert isinstance(late, Absence)
        assert late.reason == "deadline_passed"
        assert child.pid is None
        now_s = 29.0
        resting = await members.say("v1.1.0", GOOD)
        assert isinstance(resting, Absence)
        assert resting.reason == "circuit_open"
        with pytest.raises(NotReady, match=r"v1\.1\.0 rests"):
            await members.load("v1.1.0")
        now_s = 30.0
        await members.load("v1.1.0")
        assert child.pid is not None
        # It answers, and names no kind of members.
        strange = await members.say("v1.1.0", GOOD)
        assert isinstance(strange, Absence)
        assert strange.reason == "failed"
        assert child.pid is None
    finally:
        await members.close()


async def test_a_version_that_cannot_be_loaded_says_why() -> None:
    silent = CanaryProcess(("lightgbm",), process("-c", "raise SystemExit(3)"))
    with pytest.raises(NotReady, match="code 3"):
        await silent.load("v1.1.0")
    refused = CanaryProcess(("lightgbm",), process("-c", 'print(\'{"problem": "It is torn."}\')'))
    with pytest.raises(RegistryError, match="It is torn"):
        await refused.load("v1.1.0")
