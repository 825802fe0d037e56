"""The main job, end to end: bars in, a served signal out."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from levibot.launch.run_record import processes_of

from .callers import calling
from .conftest import LiveSystem, start_system, wait_for

# Of one replica of the face (ops/serve/haproxy).
AT_ONCE = 128
ERROR_FIELDS = {"code", "message", "hint", "trace_id"}
pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.stores]


def as_of(system: LiveSystem) -> datetime:
    return datetime.fromisoformat(system.predict().json()["as_of"])


def test_up_ends_by_telling_a_real_answer(system: LiveSystem) -> None:
    ready = next(line for line in system.lines if line.get("ready"))

    assert ready["answer"]["symbol"] == "BTCUSDT"
    assert ready["answer"]["source"] == "simulated"
    assert 0.0 <= ready["answer"]["probability_up"] <= 1.0
    assert ready["http_url"] == system.url


def test_the_answer_is_fresh_and_says_where_it_comes_from(system: LiveSystem) -> None:
    answer = system.predict().json()

    assert answer["freshness"] == "FRESH"
    assert answer["source"] == "simulated"
    assert answer["feature_age_s"] <= 2 * 3600
    assert answer["model_version"].startswith("v")
    assert abs(answer["target_position"]) <= 1.0


def test_signals_follow_the_feed(system: LiveSystem) -> None:
    first = as_of(system)

    wait_for(lambda: as_of(system) > first, 10, "a newer signal")


def test_a_signal_tells_its_members_and_their_accounts_follow_it(system: LiveSystem) -> None:
    blend = system.predict().json()["blend"]
    members = {"trend", "strength", "lightgbm", "xgboost", "lstm", "linear"}
    assert set(blend["opinions"]) == set(blend["weights"]) == members
    assert sum(blend["weights"].values()) == pytest.approx(1.0)
    assert set(blend["positions"]) == members | {"ensemble", "router", "fixed_weights"}
    assert blend["route"] == "ensemble"
    assert blend["abstained"] != ""
    url = f"{system.url}/ai/ensemble/weights"

    def days() -> int:
        accounts = httpx.get(url, headers=system.headers).json().get("accounts", {})
        return min((account["days"] for account in accounts.values()), default=0)

    # A day of market time is 24 s.
    wait_for(lambda: days() >= 1, 60, "priced accounts of every member")
    answer = httpx.get(url, params={"history_days": 5}, headers=system.headers).json()
    assert set(answer["held"]["weights"]) == members
    assert set(answer["accounts"]) == members | {"ensemble", "router", "fixed_weights"}
    assert answer["problem"] == ""
    metrics = httpx.get(f"{system.url}/metrics", headers=system.headers).text
    assert 'levibot_ensemble_weight{model="trend"' in metrics


def test_many_symbols_are_answered_at_once_each_for_itself(system: LiveSystem) -> None:
    asked = ["ETHUSDT", "DOGEUSDT", "BTCUSDT"]
    answer = httpx.post(
        f"{system.url}/ai/predict/batch", json={"symbols": asked}, headers=system.headers, timeout=30.0
    )
    entries = answer.json()["answers"]

    assert (answer.status_code, answer.json()["n_failed"]) == (200, 1)
    assert [entry["symbol"] for entry in entries] == asked
    assert entries[1]["error"]["code"] == "unknown_symbol"
    assert [entries[n]["signal"]["symbol"] for n in (0, 2)] == ["ETHUSDT", "BTCUSDT"]
    assert {entries[n]["signal"]["freshness"] for n in (0, 2)} == {"FRESH"}


def signals_told(system: LiveSystem, n: int, last_event_id: str | None = None) -> list[tuple[str, str, str]]:
    """Id, symbol and close of the first `n` signals that the stream tells; it must tell of no gap."""
    headers = system.headers | ({"last-event-id": last_event_id} if last_event_id else {})
    told: list[tuple[str, str, str]] = []
    event: dict[str, str] = {}
    with httpx.stream("GET", f"{system.url}/ai/signals/stream", headers=headers, timeout=20.0) as answer:
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif event.get("event"):
                assert event["event"] == "signal"
                body = json.loads(event["data"])
                told.append((event["id"], body["symbol"], body["as_of"]))
                event = {}
                if len(told) == n:
                    break
    return told


def test_signals_come_through_the_front_as_they_are_made_and_go_on_after_a_break(system: LiveSystem) -> None:
    first = signals_told(system, 4)
    # A bar closes meanwhile, and its signals must come all the same.
    wait_for(lambda: as_of(system) > datetime.fromisoformat(first[-1][2]), 10, "a newer signal")
    second = signals_told(system, 8, first[-1][0])
    told = first + second

    assert len({id for id, _, _ in told}) == len(told)
    assert {symbol for _, symbol, _ in told} == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
    # One that nothing interrupts tells the same.
    assert signals_told(system, len(told) - 1, told[0][0]) == told[1:]


def test_readyz_and_livez_say_what_is_served(system: LiveSystem) -> None:
    ready = httpx.get(f"{system.url}/readyz")
    alive = httpx.get(f"{system.url}/livez")

    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert (alive.status_code, alive.json()["source"]) == (200, "simulated")


def test_docs_and_metrics_are_served(system: LiveSystem) -> None:
    system.predict()
    metrics = httpx.get(f"{system.url}/metrics", headers=system.headers).text

    assert "source: simulated" in httpx.get(f"{system.url}/openapi.json").text
    assert httpx.get(f"{system.url}/docs").status_code == 200
    assert 'levibot_http_requests_total{method="POST",route="/ai/predict",status="200"}' in metrics
    assert 'levibot_feature_staleness_seconds{symbol="BTCUSDT"}' in metrics


def test_an_unknown_symbol_is_refused_in_the_error_shape(system: LiveSystem) -> None:
    answer = system.predict("DOGEUSDT")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_symbol"
    assert "BTCUSDT" in answer.json()["error"]["hint"]


def test_what_is_no_request_is_refused_and_the_front_goes_on(system: LiveSystem) -> None:
    place = urlsplit(system.url)
    with socket.create_connection((place.hostname, place.port), timeout=10.0) as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()

    assert answer.startswith("HTTP/1.1 400")
    assert httpx.get(f"{system.url}/livez").status_code == 200


def test_the_front_is_controlled_by_its_owner_alone(system: LiveSystem) -> None:
    (front,) = [one for one in processes_of(system.record.run_id) if one.name() == "haproxy"]
    configuration = Path(front.cmdline()[front.cmdline().index("-f") + 1])

    assert (configuration.parent / "admin.sock").stat().st_mode & 0o077 == 0


def test_status_and_predict_answer_from_another_shell(system: LiveSystem) -> None:
    status = system.command("status", "--json")
    prediction = system.command("predict", "ethusdt")

    assert (status.returncode, prediction.returncode) == (0, 0)
    assert '"ready": true' in status.stdout
    assert "simulated" in prediction.stdout


def test_everything_listens_on_loopback_only(system: LiveSystem) -> None:
    run = [psutil.Process(system.process.pid), *psutil.Process(system.process.pid).children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in {*run, *processes_of(system.record.run_id)}
        if process.is_running()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }

    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_second_run_of_the_same_state_folder_is_refused(system: LiveSystem) -> None:
    refused = system.command("up")

    assert refused.returncode == 1
    assert "already runs" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert system.predict().status_code == 200


def test_a_port_in_use_is_named_and_nothing_stays_behind(system: LiveSystem, tmp_path: Path) -> None:
    port = system.url.rpartition(":")[2]
    other = start_system(tmp_path / "other", LEVIBOT_HTTP_PORT=port)
    other.process.communicate(timeout=60)

    assert other.process.returncode == 1
    assert f"Port {port}" in (tmp_path / "up.err").read_text()
    assert not (tmp_path / "other" / "run.json").exists()


def test_a_training_job_from_a_second_shell_is_served(system: LiveSystem) -> None:
    before = system.predict().json()["model_version"]

    job = system.in_second_shell("ray job submit --working-dir . -- python -m tune.train")
    output = job.communicate(timeout=200)[0]

    assert job.returncode == 0, output
    wait_for(lambda: system.predict().json()["model_version"] > before, 15, "the new version")


def is_answered_by(system: LiveSystem, version: str) -> bool:
    return bool(system.predict().json()["model_version"] == version)


def test_a_version_takes_the_place_of_another_and_no_request_fails(system: LiveSystem) -> None:
    url = f"{system.url}/ai/models"
    listed = httpx.get(f"{url}/list", headers=system.headers, timeout=30.0).json()
    serving = listed["active"]
    # The one that served before: others of the registry may be broken, for a test's sake.
    earlier = next(one["version"] for one in listed["history"] if one["version"] != serving)
    with calling(system.url, system.headers, ("BTCUSDT", "ETHUSDT"), rate_per_s=20.0) as seen:
        for version in (earlier, serving):
            asked = {"version": version, "reason": "another model set, under load"}
            answer = httpx.post(f"{url}/activate", json=asked, headers=system.headers, timeout=30.0)
            assert answer.status_code == 200, answer.text
            wait_for(partial(is_answered_by, system, version), 30, version)

    assert {tries[0].body.get("model_version") for tries in seen.requests} == {earlier, serving}
    assert [tries[0] for tries in seen.requests if not tries[0].is_answer] == []
    assert seen.wrong() == []


def test_what_there_is_no_room_for_is_refused_at_once_and_answers_go_on(system: LiveSystem) -> None:
    """Twice what a replica takes at once, of its slowest route, and all at the same moment."""

    async def ask_at_once(n: int) -> list[tuple[float, httpx.Response]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=system.headers, timeout=30.0, limits=limits) as client:

            async def one() -> tuple[float, httpx.Response]:
                answer = await client.get(f"{system.url}/events", params={"limit": 1000})
                return time.monotonic(), answer

            return await asyncio.gather(*(one() for _ in range(n)))

    asked = asyncio.run(ask_at_once(2 * AT_ONCE))
    answered = [at for at, answer in asked if answer.status_code == 200]
    refused = [(at, answer) for at, answer in asked if answer.status_code != 200]
    assert answered
    assert {answer.status_code for _, answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for _, answer in refused)
    assert all(set(answer.json()["error"]) == ERROR_FIELDS for _, answer in refused)
    # Those who are refused do not wait for those who are not.
    assert median(at for at, _ in refused) < max(answered)
    assert system.predict().status_code == 200
