"""The graph with a process for each kind of members: one is killed, one is frozen, and the others go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from .conftest import LiveSystem, start_system, wait_for

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.stores, pytest.mark.slow]

LEARNED = {"lightgbm", "xgboost", "lstm", "linear"}
BACK_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    live = start_system(tmp_path_factory.mktemp("apart") / "home", LEVIBOT_GRAPH="apart")
    try:
        live.wait_until_ready()
        yield live
    finally:
        if live.process.poll() is None:
            live.stop()


def blend_of(system: LiveSystem) -> dict[str, Any]:
    answer = system.predict()
    assert answer.status_code == 200, answer.text
    blend: dict[str, Any] = answer.json()["blend"]
    members = {"trend", "strength", *LEARNED}
    # Whoever is absent is named with a reason, and the others share what it weighs.
    assert set(blend["weights"]) == set(blend["opinions"]) == members - set(blend["absent"])
    assert sum(blend["weights"].values()) == pytest.approx(1.0)
    return blend


def absent(system: LiveSystem) -> set[str]:
    return set(blend_of(system)["absent"])


@pytest.mark.parametrize(("member", "replica"), [("xgboost", "XGBoost"), ("lightgbm", "LightGBM")])
def test_a_killed_member_is_named_takes_no_other_along_and_comes_back(
    apart: LiveSystem, member: str, replica: str
) -> None:
    wait_for(lambda: absent(apart) == set(), BACK_WITHIN_S, "every member's answer")
    os.kill(apart.pid_of(f"ServeReplica:default:{replica}"), signal.SIGKILL)
    wait_for(lambda: absent(apart) == {member}, 15, f"an answer without {member}")
    wait_for(lambda: absent(apart) == set(), BACK_WITHIN_S, f"the return of {member}")


def test_a_frozen_member_is_left_alone_and_takes_part_again_when_it_thaws(apart: LiveSystem) -> None:
    wait_for(lambda: absent(apart) == set(), BACK_WITHIN_S, "every member's answer")
    frozen = psutil.Process(apart.pid_of("ServeReplica:default:Lstm"))
    frozen.suspend()
    try:
        wait_for(
            lambda: blend_of(apart)["absent"] == {"lstm": "circuit_open"}, 15, "answers that wait for nobody"
        )
    finally:
        frozen.resume()
    wait_for(lambda: absent(apart) == set(), BACK_WITHIN_S, "the return of lstm")
    metrics = httpx.get(f"{apart.url}/metrics", headers=apart.headers).text
    assert 'levibot_member_absent_total{member="lstm"' in metrics
    assert 'reason="deadline_passed"' in metrics
