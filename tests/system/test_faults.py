"""Each part killed, or frozen, under requests: an answer or one clear error, and service is back in time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from levibot.stores.connect import open_registry

from .conftest import LiveSystem, wait_for

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.stores]

BACK_WITHIN_S = 15.0
EVER = datetime(2000, 1, 1, tzinfo=UTC)
PARTS = {
    "the feed": "ray::MarketFeed",
    "the features": "ray::OnlineFeatures",
    "the event log": "ray::EventLog",
    "the shadow ledger": "ray::ShadowLedger",
    "the weights": "ray::EnsembleWeights",
    "the api": "ServeReplica:default:Api",
    "the router": "ServeReplica:default:Router",
    "the model": "ServeReplica:default:Members",
    "redis": "redis",
    "postgres": "postgres",
    "the dashboard": "ray/dashboard/dashboard.py",
}


@dataclass
class Requests:
    """What callers saw: statuses and bodies of every answer, and what was no answer at all."""

    answers: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@contextmanager
def requests_running(system: LiveSystem) -> Iterator[Requests]:
    """About twenty requests a second until the block ends."""
    seen = Requests()
    ended = threading.Event()
    url = f"{system.url}/ai/predict"

    def ask() -> None:
        with httpx.Client(timeout=30.0, headers=system.headers) as client:
            while not ended.wait(0.05):
                try:
                    answer = client.post(url, json={"symbol": "BTCUSDT"})
                    seen.answers.append((answer.status_code, answer.json()))
                except (httpx.HTTPError, ValueError) as exc:
                    seen.broken.append(repr(exc))

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        yield seen
    finally:
        ended.set()
        caller.join()


def is_served(system: LiveSystem, later_than: datetime) -> bool:
    """Whether a fresh signal of a bar that closed after `later_than` is answered."""
    try:
        answer = system.predict().json()
    except (httpx.HTTPError, ValueError):
        return False
    return answer.get("freshness") == "FRESH" and datetime.fromisoformat(answer["as_of"]) > later_than


def has_returned(system: LiveSystem, part: str, killed_pid: int) -> bool:
    try:
        return system.pid_of(PARTS[part]) != killed_pid
    except LookupError:
        return False


def market_time(system: LiveSystem) -> datetime:
    return datetime.fromisoformat(httpx.get(f"{system.url}/readyz").json()["market_time"])


def assert_every_answer_is_honest(seen: Requests) -> None:
    assert seen.broken == []
    assert len(seen.answers) > 5
    for status, body in seen.answers:
        if status == 200:
            assert body["source"] == "simulated"
            assert body["freshness"] in ("FRESH", "STALE")
            assert body["freshness"] == "STALE" or body["feature_age_s"] <= 2 * 3600
        else:
            assert set(body) == {"error"}
            assert set(body["error"]) == {"code", "message", "hint", "trace_id"}


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_part_is_back_and_every_response_is_an_answer_or_one_error(
    system: LiveSystem, part: str
) -> None:
    wait_for(lambda: is_served(system, EVER), 30, "service")
    pid = system.pid_of(PARTS[part])
    with requests_running(system) as seen:
        time.sleep(0.5)
        killed_at = market_time(system)
        os.kill(pid, signal.SIGKILL)
        # A signal of a bar that closed after the kill: the whole path works again.
        wait_for(lambda: is_served(system, killed_at), BACK_WITHIN_S, f"service without {part}")
        wait_for(lambda: has_returned(system, part, pid), BACK_WITHIN_S, f"the return of {part}")

    assert_every_answer_is_honest(seen)


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_a_frozen_store_is_survived_and_nothing_stale_is_called_fresh(system: LiveSystem, store: str) -> None:
    server = psutil.Process(system.pid_of(store))
    whole = [server, *server.children(recursive=True)]
    with requests_running(system) as seen:
        for process in whole:
            process.suspend()
        try:
            time.sleep(6.0)
        finally:
            for process in whole:
                process.resume()
        woken_at = market_time(system)
        wait_for(lambda: is_served(system, woken_at), BACK_WITHIN_S, f"service after {store} woke")

    assert_every_answer_is_honest(seen)
    assert any(body.get("freshness") == "STALE" for _, body in seen.answers)


def test_a_frozen_event_log_delays_no_signal(system: LiveSystem) -> None:
    wait_for(lambda: is_served(system, EVER), 30, "service")
    event_log = psutil.Process(system.pid_of(PARTS["the event log"]))
    with requests_running(system) as seen:
        event_log.suspend()
        try:
            time.sleep(6.0)
        finally:
            event_log.resume()

    assert_every_answer_is_honest(seen)
    assert {body.get("freshness") for _, body in seen.answers} == {"FRESH"}


def test_a_broken_version_that_goes_live_is_passed_over(system: LiveSystem) -> None:
    registry = open_registry(system.settings)
    good = registry.active()
    assert good is not None
    model = registry.load(good)
    # Broken in the instant between the check of its activation and its first use.
    broken = registry.publish(model.metadata, model.files)
    models = system.home / "models"
    (models / broken / sorted(model.files)[0]).write_bytes(b"{}")
    pointer = models / "active.json"
    pointer.write_text(pointer.read_text().replace(good, broken))
    try:
        with requests_running(system) as seen:
            switched_at = market_time(system)
            wait_for(lambda: is_served(system, switched_at), BACK_WITHIN_S, "a signal of a later bar")
        assert {body["model_version"] for _, body in seen.answers} == {good}
        assert {body["freshness"] for _, body in seen.answers} == {"FRESH"}
    finally:
        registry.activate(good, "as it was")


def test_no_acknowledged_event_is_lost_when_the_log_is_killed(system: LiveSystem) -> None:
    script = Path(__file__).with_name("append_events.py")
    writer = system.in_second_shell(f"python {script} 150")
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(20)]
    os.kill(system.pid_of(PARTS["the event log"]), signal.SIGKILL)
    lines = writer.communicate(timeout=120)[0].split()

    assert writer.returncode == 0
    acknowledged += lines[: lines.index("READ")]
    stored = lines[lines.index("READ") + 1 :]
    assert len(acknowledged) == 150
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
