"""A canary on the session's system: begun by a `serve deploy`, and taken back by itself when it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from levibot.stores.connect import open_registry
from tests.system.conftest import ROOT, LiveSystem, wait_for

DEFINITION = ROOT / "ops" / "serve" / "development.yaml"


def deploy(system: LiveSystem, path: Path, canary: dict[str, Any] | None) -> None:
    """The definition with this canary, on the running graph."""
    definition = yaml.safe_load(DEFINITION.read_text())
    definition["http_options"]["port"] = int(system.url.rpartition(":")[2])
    for one in definition["applications"][0]["deployments"]:
        if one["name"] == "Router":
            one["user_config"]["canary"] = canary
    path.write_text(yaml.safe_dump(definition))
    job = system.in_second_shell(f'serve deploy --address "$RAY_API_SERVER_ADDRESS" {path}')
    output = job.communicate(timeout=120)[0]
    assert job.returncode == 0, output


def state_of(system: LiveSystem) -> dict[str, Any]:
    answer = httpx.get(f"{system.url}/ai/models/canary", headers=system.headers, timeout=30.0)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["canary"] or {}
    return found


def answered_by(system: LiveSystem) -> tuple[str, str]:
    """Arm and version; empty where there is no answer, as while replicas are exchanged."""
    answer = system.predict()
    said = answer.json()
    return (said["arm"], said["model_version"]) if answer.status_code == 200 else ("", "")


@pytest.fixture
def definition(system: LiveSystem, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "canary.yaml"
    yield path
    deploy(system, path, None)
    wait_for(lambda: answered_by(system)[0] == "champion", 60, "an answer of the champion's")


@pytest.mark.timeout(900)
def test_a_canary_answers_its_share_and_is_taken_back_when_its_process_dies(
    system: LiveSystem, definition: Path
) -> None:
    champion = system.predict().json()["model_version"]
    registry = open_registry(system.settings)
    stored = registry.load(champion)
    version = registry.publish(dict(stored.metadata) | {"note": "beside"}, stored.files)

    canary = {"version": version, "share": 1.0}
    deploy(system, definition, canary)
    wait_for(lambda: answered_by(system) == ("canary", version), 120, "an answer of the canary's")
    wait_for(lambda: (state_of(system).get("net_pnl") or {"n": 0})["n"] >= 2, 60, "two bars of both arms")
    state = state_of(system)
    assert (state["state"], state["share"], state["champion"]) == ("running", 1.0, champion)
    # The same files, asked in another process, are the same decisions and the same account.
    assert state["net_pnl"]["canary"] == state["net_pnl"]["champion"]

    os.kill(system.pid_of("canary_child"), signal.SIGKILL)
    wait_for(lambda: answered_by(system) == ("champion", champion), 120, "the rollback")
    wait_for(lambda: state_of(system)["state"] == "rolled_back", 30, "the rollback on record")
    state = state_of(system)
    assert (state["ended_why"], state["share"], state["share_set"]) == ("errors", 0.0, 1.0)
    events = httpx.get(
        f"{system.url}/events",
        params={"event_type": "canary_rolled_back"},
        headers=system.headers,
        timeout=30.0,
    ).json()["events"]
    assert [event["payload"]["version"] for event in events] == [version]
    assert system.pids_of("canary_child") == []
