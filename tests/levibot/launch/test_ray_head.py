"""What the Ray head needs from the machine. The head itself is started in tests/system."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from levibot.errors import PortInUse, ProcessError
from levibot.launch.ray_head import RayHead, check_port, repository
from levibot.launch.run_record import RUN_ID_VARIABLE
from levibot.settings import Settings


def test_a_port_that_somebody_listens_on_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} .* set LEVIBOT_HTTP_PORT to a free port"):
            check_port(port, "LEVIBOT_HTTP_PORT")
    check_port(port, "LEVIBOT_HTTP_PORT")


def test_a_port_of_all_addresses_is_taken_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listening, pytest.raises(PortInUse):
        check_port(listening.getsockname()[1], "LEVIBOT_HTTP_PORT")


def test_a_port_that_was_just_left_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            # The side that closes first keeps the port in TIME_WAIT for a minute.
            accepted.close()
    check_port(port, "LEVIBOT_HTTP_PORT")


def test_a_taken_dashboard_port_is_replaced(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        head = RayHead(Settings.load(home=tmp_path, dashboard_port=port), "id")
        assert head.dashboard_url.startswith("http://127.0.0.1:")
        assert not head.dashboard_url.endswith(f":{port}")
    assert RayHead(Settings.load(home=tmp_path, dashboard_port=port), "id").dashboard_url.endswith(f":{port}")


def test_every_process_of_the_cluster_is_told_its_run_and_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    head = RayHead(Settings.load(home=tmp_path, seed=5), "the-run")
    told = head.environment
    assert told[RUN_ID_VARIABLE] == "the-run"
    assert (told["RAY_ADDRESS"], told["RAY_API_SERVER_ADDRESS"]) == (head.address, head.dashboard_url)
    assert (told["LEVIBOT_SEED"], told["RAY_AUTH_MODE"]) == ("5", "token")
    assert told["PYTHONPATH"].split(os.pathsep) == [str(repository()), "/mine"]


def test_a_head_that_was_not_started_neither_runs_nor_needs_stopping(tmp_path: Path) -> None:
    head = RayHead(Settings.load(home=tmp_path), "no-such-run")
    assert not head.is_running
    with pytest.raises(ProcessError, match="ended while starting"):
        head.wait()
    head.stop()
