"""One run from nothing to served signals, and its orderly end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil
from rich.markup import escape

from levibot.access.api_key import Role
from levibot.access.key_file import KeyFile
from levibot.access.run_key import end_run_key, make_run_key
from levibot.errors import DataError, ProcessError, SettingsError, SourceError, StoreUnavailable
from levibot.features.views import CORE
from levibot.launch.fitting_model import Wanted, activate_fitting_model
from levibot.launch.ray_head import RayHead, check_port, last_line, repository
from levibot.launch.replay_position import read_position, write_position
from levibot.launch.run_record import (
    RunRecord,
    end_processes,
    forget_record,
    processes_of,
    read_record,
    write_record,
)
from levibot.launch.steps import Steps, progress_of
from levibot.launch.trial_intake import TrialIntake
from levibot.market.ingest import Ingest
from levibot.market.intake import Intake
from levibot.market.side_ingest import ingest_side_series
from levibot.market.sources import Source, open_source
from levibot.serving.client import headers_with
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_events, open_online, open_registry, open_ticks
from levibot.stores.durable import check_durable
from levibot.stores.embedded import EmbeddedServers

WATCH_S = 0.5
READY_TIMEOUT_S = 120.0
# What a first run learns from when nothing else is said.
HISTORY = timedelta(days=730)
RECORDED_REPLAY = timedelta(days=365)
SIMULATED_REPLAY_START = datetime(2024, 1, 1, tzinfo=UTC)


class Run:
    """Everything that `up` starts: brought up, kept up, and ended with nothing else."""

    def __init__(self, settings: Settings, steps: Steps) -> None:
        self._settings = settings
        self._steps = steps
        self._servers = EmbeddedServers(settings)
        self._trials = TrialIntake(settings, steps)
        self._run_id = uuid.uuid4().hex
        self._head: RayHead | None = None
        self._training: subprocess.Popen[bytes] | None = None
        self.first_key: str | None = None
        self._has_run_key = False

    def start(self) -> dict[str, Any]:
        """Bring the system up; returns the first answer that it served.

        Raises ProcessError, PortInUse, DataError, SettingsError, or a store's error; `stop` then cleans up.
        """
        home = self._settings.home
        repository()
        home.mkdir(parents=True, exist_ok=True)
        self._end_leftovers()
        check_port(self._settings.http_port, "LEVIBOT_HTTP_PORT")
        source = open_source(self._settings)
        self._make_keys()
        with self._steps.step("Starting the stores"):
            self._servers.start()
            asyncio.run(self._prepare_stores())
            replay_start, self._settings = self._with_clock(source)
            asyncio.run(self._check_stores())
        self._head = head = RayHead(self._settings, self._run_id)
        head.start()
        self._record(head)
        with self._steps.step("Loading the market") as at:
            asyncio.run(self._load(source, replay_start, lambda symbol, n: at(f"{symbol}: {n:,} bars")))
        with self._steps.step("Starting the Ray cluster"):
            head.wait()
        # The application comes up while the model is trained: its router waits for an active model.
        deploy = self._spawn("deploy.log", [sys.executable, "-m", "deployments.start"])
        wanted = Wanted(
            self._settings.market_id, CORE.version, self._settings.symbols, begins_at=replay_start
        )
        registry = open_registry(self._settings)
        if not activate_fitting_model(registry, wanted):
            with self._steps.step("Training a model") as at:
                submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
                job = [*submit, "--", "python", "-m", "tune.train", "--until", replay_start.isoformat()]
                n_before = len(registry.history())
                # What the job learns when its model is live, nobody needs for the first answer.
                self._training = self._command(
                    "the training job", job, at, until=lambda: len(registry.history()) > n_before
                )
        with self._steps.step("Waiting for the first signal"):
            return self._first_answer(deploy)

    def watch(self) -> None:
        """Keep the run up until it is interrupted: what has died is started again, and trials are taken in.

        Raises ProcessError when the Ray head ends.
        """
        while self._head is not None and self._head.is_running:
            self._note_position()
            self._trials.turn()
            self._say_if_training_failed()
            for name in [*self._restart_dead(), *self._head.restart_dead()]:
                self._steps.say(
                    f"[yellow]{name} had died and was started again.[/yellow]", {"restarted": name}
                )
            time.sleep(WATCH_S)
        raise ProcessError("The Ray head has ended.", hint=f"See {self._settings.home / 'logs' / 'ray.log'}.")

    def stop(self) -> None:
        """End everything that this run started, the cluster before the stores that it writes to."""
        with ExitStack() as ending:
            # Called in reverse, whatever happens: to say so may fail, where the terminal is gone.
            ending.callback(self._servers.stop)
            ending.callback(self._trials.close)
            if self._has_run_key:
                ending.callback(end_run_key, self._settings.home)
            if self._head is not None:
                ending.callback(forget_record, self._settings.home)
                ending.callback(self._head.stop)
                with self._steps.step("Stopping the Ray cluster"):
                    self._head.stop()
            with self._steps.step("Stopping the stores"):
                self._servers.stop()

    def _make_keys(self) -> None:
        """The run's own key; in a state folder that never had one, an operator's key to be shown once."""
        if self._settings.api_keys == "off":
            text = "API keys are OFF: whoever reaches this port may do everything. For development only."
            self._steps.say(f"[bold red]{text}[/bold red]", {"api_keys": "off", "problem": text})
            return
        home = self._settings.home
        self.first_key = KeyFile(home).create_first("first", Role.OPERATOR)
        self._has_run_key = True
        # Commands, jobs and this launcher ask with it; the person's own key is kept nowhere.
        self._settings = self._settings.model_copy(update={"api_key": make_run_key(home)})

    def _note_position(self) -> None:
        if self._settings.source != "exchange":
            write_position(self._settings.home, self._settings.market_id, self._settings.clock().now())

    def _restart_dead(self) -> list[str]:
        try:
            return self._servers.restart_dead()
        except ProcessError as exc:
            # The rest goes on without this store, says so, and it is tried again at the next turn.
            self._steps.say(f"[red]{escape(str(exc))}[/red]", {"problem": str(exc)})
            return []

    def _say_if_training_failed(self) -> None:
        if self._training is None or self._training.poll() is None:
            return
        if self._training.returncode:
            text = "The training job failed after its model was live: its features are not watched for drift."
            self._steps.say(f"[yellow]{text}[/yellow]", {"problem": text})
        self._training = None

    def _end_leftovers(self) -> None:
        """End what a killed launcher left behind. Raises ProcessError when the last run is alive."""
        record = read_record(self._settings.home)
        if record is None:
            return
        if record.launcher is not None:
            raise ProcessError(
                f"LeviBot already runs from {self._settings.home}: process {record.pid}, {record.http_url}.",
                hint="Stop it with `python -m levibot down`, or set LEVIBOT_HOME to another folder.",
            )
        end_processes(processes_of(record.run_id))
        forget_record(self._settings.home)

    async def _prepare_stores(self) -> None:
        with _naming("LEVIBOT_POSTGRES_DSN", self._settings.postgres_dsn):
            ticks = await open_ticks(self._settings)
        try:
            await ticks.migrate()
        finally:
            await ticks.close()

    async def _check_stores(self) -> None:
        """Ask Redis and a ClickHouse that is not ours for a sign of life, and Redis whether it evicts."""
        online = open_online(self._settings, CORE)
        try:
            cache_url = self._settings.redis_cache_url
            variable = "LEVIBOT_REDIS_CACHE_URL" if cache_url else "LEVIBOT_REDIS_URL"
            with _naming(variable, cache_url or self._settings.redis_url):
                await online.ping()
        finally:
            await online.close()
        durable = open_durable(self._settings)
        try:
            with _naming("LEVIBOT_REDIS_URL", self._settings.redis_url):
                await check_durable(durable)
        finally:
            await durable.aclose()
        # The embedded engine belongs to the actor that owns it.
        if self._settings.clickhouse_url is not None:
            with _naming("LEVIBOT_CLICKHOUSE_URL", self._settings.clickhouse_url):
                open_events(self._settings).close()

    def _with_clock(self, source: Source) -> tuple[datetime, Settings]:
        """Where time starts, and the settings that carry its clock to every process of the run."""
        now = datetime.now(UTC)
        if self._settings.source == "exchange":
            return now, self._settings
        first, last = source.extent()
        start = self._settings.replay_start
        if start is None and last is None:
            start = SIMULATED_REPLAY_START
        elif start is None and last is not None:
            start = max(last - RECORDED_REPLAY, first + (last - first) * 0.8)
        if start is None or start <= first or (last is not None and start >= last):
            raise SettingsError(
                f"LEVIBOT_REPLAY_START is {start}, outside the market's {first} to {last or 'no end'}."
            )
        # A second run goes on where the first one stopped.
        reached = read_position(self._settings.home, self._settings.market_id)
        if reached and last is not None and reached >= last:
            text = f"The recorded market was played to its end; it begins again at {start.isoformat()}."
            self._steps.say(text, {"replay_begins_again": start.isoformat()})
            reached = None
        begin = max(start, reached) if reached else start
        update = {"replay_start": begin, "replay_wall_start": now}
        return begin, self._settings.model_copy(update=update)

    async def _load(self, source: Source, until: datetime, progress: Callable[[str, int], None]) -> None:
        settings = self._settings
        ticks = await open_ticks(settings)
        try:
            intake = Intake(ticks, settings.market_id)
            ingest = Ingest(source, intake, settings.symbols)
            start = settings.train_start
            if start is None:
                start = source.extent()[0] if settings.source == "parquet" else until - HISTORY
            await ingest.up_to(until, start, progress)
            try:
                await ingest_side_series(source, intake, start, until)
            except (SourceError, DataError) as exc:
                # It is missing, and says so; the actor that looks outside asks again.
                text = f"What the market tells beside its bars is missing for now: {exc}"
                self._steps.say(f"[yellow]{escape(text)}[/yellow]", {"problem": str(exc)})
        finally:
            await ticks.close()

    def _record(self, head: RayHead) -> None:
        settings = self._settings
        me = psutil.Process()
        record = RunRecord(
            run_id=self._run_id,
            pid=me.pid,
            launched_at=me.create_time(),
            http_url=self.http_url,
            dashboard_url=head.dashboard_url,
            ray_address=head.address,
            source=settings.source,
            market_id=settings.market_id,
        )
        write_record(settings.home, record)
        head.write_shell_environment(settings.home / "env.sh")

    @property
    def http_url(self) -> str:
        return f"http://{self._settings.http_host}:{self._settings.http_port}"

    @property
    def dashboard_url(self) -> str:
        return self._head.dashboard_url if self._head else ""

    def _spawn(self, log_name: str, command: list[str]) -> subprocess.Popen[bytes]:
        assert self._head is not None
        log = self._settings.home / "logs" / log_name
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=repository(),
                env=self._head.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _command(
        self, what: str, command: list[str], at: Callable[[str], None], until: Callable[[], bool]
    ) -> subprocess.Popen[bytes]:
        """Run a command until its work is done, showing its newest line; it may end later.

        Raises ProcessError when it fails before, or ends without.
        """
        log_name = f"{what.split()[-1]}.log"
        child = self._spawn(log_name, command)
        log = self._settings.home / "logs" / log_name
        while not until():
            if child.poll() is not None and not until():
                raise ProcessError(f"Starting {what} failed: {last_line(log)}", hint=f"See {log}.")
            at(progress_of(last_line(log)))
            time.sleep(0.2)
        return child

    def _first_answer(self, deploy: subprocess.Popen[bytes]) -> dict[str, Any]:
        deadline = time.monotonic() + READY_TIMEOUT_S
        problem = "nothing answers yet"
        log = self._settings.home / "logs" / "deploy.log"
        while time.monotonic() < deadline:
            if deploy.poll():
                raise ProcessError(f"Deploying failed: {last_line(log)}", hint=f"See {log}.")
            try:
                body = {"symbol": self._settings.symbols[0]}
                answer = httpx.post(
                    f"{self.http_url}/ai/predict",
                    json=body,
                    headers=headers_with(self._settings.api_key),
                    timeout=10.0,
                )
                if answer.status_code == 200:
                    return dict(answer.json())
                problem = answer.json()["error"]["message"]
            except (httpx.HTTPError, ValueError, KeyError) as exc:
                problem = f"{type(exc).__name__}: {exc}"
            time.sleep(0.25)
        raise ProcessError(
            f"No signal was served within {READY_TIMEOUT_S:.0f} s: {problem}", hint=f"See {log} and /readyz."
        )


@contextmanager
def _naming(variable: str, value: str | None) -> Iterator[None]:
    """Say of a store that does not answer where its address comes from."""
    try:
        yield
    except StoreUnavailable as exc:
        where = f"Start it, or unset {variable} for the embedded server." if value else "See the logs."
        raise StoreUnavailable(exc.message, hint=where) from exc
