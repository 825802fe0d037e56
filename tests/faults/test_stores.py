"""Each store killed, frozen, restarted and cut off under writers: nothing acknowledged is lost or doubled."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest

from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers
from levibot.stores.server_process import LOOPBACK, free_port
from levibot.stores.ticks import TickStore
from tests.faults.drill import AWAY_S, Drill
from tests.faults.network import NEAR, Cable, end, start_forwarder
from tests.faults.plugin import Faults
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.stores

WRITERS = "2 writers × 4 streams"


@dataclass(frozen=True)
class Store:
    """One embedded server under drill. stop: the signal that ends it in order.

    killed, frozen, begun_anew: what becomes of the writes.
    """

    part: str
    kind: str
    name: str
    stop: signal.Signals
    killed: str
    frozen: str = "writes are repeated, and done once"
    begun_anew: str = "what was written is not written again"


LOG, APPENDED = "its log is replayed at the start", "its append-only file is replayed"
STORES = (
    Store("PostgreSQL, bars", "bars", "postgres", signal.SIGINT, LOG),
    Store(
        "PostgreSQL, trades by COPY",
        "trades",
        "postgres",
        signal.SIGINT,
        f"{LOG}; a batch of 60 is there whole or not at all",
        "batches of 60 are repeated, and there once",
    ),
    Store("Redis, signals", "signals", "redis", signal.SIGTERM, APPENDED),
    Store(
        "Redis, dead letters",
        "letters",
        "redis",
        signal.SIGTERM,
        f"{APPENDED}; no attempt is kept twice",
        "no attempt is kept twice; a repeat is a letter of its own",
        "every letter is kept; work begun anew sends letters of its own",
    ),
)


@dataclass(frozen=True)
class Running:
    """The drill's own servers."""

    servers: EmbeddedServers
    url: str
    store: Store

    def family(self) -> list[psutil.Process]:
        server = psutil.Process(self.servers.pids()[self.store.name])
        return [server, *server.children(recursive=True)]

    def send(self, which: signal.Signals) -> None:
        """To every process of the server that still lives."""
        for process in self.family():
            try:
                process.send_signal(which)
            except psutil.NoSuchProcess:
                continue

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(self.store.stop)

    def start(self) -> None:
        assert self.servers.restart_dead() == [self.store.name]

    def _end(self, by: signal.Signals) -> None:
        self.family()[0].send_signal(by)
        while self.store.name in self.servers.pids():
            time.sleep(0.005)


def over_stores(fault: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The drill on each store, with a row of its own."""
    return pytest.mark.parametrize(
        "running",
        [pytest.param(s, marks=pytest.mark.fault(s.part, fault), id=s.kind) for s in STORES],
        indirect=True,
    )


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    store: Store = request.param
    unused = {"postgres": {"redis_url": "redis://unused"}, "redis": {"postgres_dsn": "postgresql://unused/x"}}
    servers = EmbeddedServers(Settings.load(home=tmp_path / "home", **unused[store.name]))
    addresses = servers.start()
    url = addresses.postgres_dsn if store.name == "postgres" else addresses.redis_url
    try:
        if store.name == "postgres":
            asyncio.run(migrate(url))
        yield Running(servers, url, store)
    finally:
        servers.stop()


async def migrate(dsn: str) -> None:
    store = await TickStore.open(dsn)
    await store.migrate()
    await store.close()


@over_stores("killed (SIGKILL), started again")
def test_killed(running: Running, faults: Faults) -> None:
    observed = Drill(running.store.kind, running.url).fault(running.kill, running.start)
    faults.judge(observed, f"{WRITERS}, away {AWAY_S:g} s", running.store.killed)


@over_stores("frozen (SIGSTOP), thawed")
def test_frozen(running: Running, faults: Faults) -> None:
    observed = Drill(running.store.kind, running.url).fault(
        lambda: running.send(signal.SIGSTOP), lambda: running.send(signal.SIGCONT)
    )
    faults.judge(
        observed,
        f"{WRITERS}, away {AWAY_S:g} s",
        f"each call ends with its time-out; {running.store.frozen}",
    )


@pytest.mark.slow
@over_stores("restarted in order")
def test_restarted(running: Running, faults: Faults) -> None:
    observed = Drill(running.store.kind, running.url).fault(running.stop, running.start, away_s=0.0)
    faults.judge(observed, WRITERS, "connections are made anew")


@pytest.mark.slow
@over_stores("network cut, mended")
def test_network_cut(running: Running, faults: Faults) -> None:
    parts = urlsplit(running.url)
    assert parts.port is not None
    with Cable(parts.port) as cable:
        there = f"{parts.netloc.rpartition('@')[0]}@{NEAR}:{cable.port}"
        drill = Drill(running.store.kind, urlunsplit(parts._replace(netloc=there)), prefix=cable.prefix)
        observed = drill.fault(cable.cut, cable.mend)
    faults.judge(
        observed,
        f"{WRITERS} in a network namespace, cable down {AWAY_S:g} s",
        "each call ends with its time-out; the way is found again",
    )


@pytest.mark.slow
@over_stores("writers killed (SIGKILL), the work begun anew")
def test_writers_killed(running: Running, faults: Faults) -> None:
    observed = Drill(running.store.kind, running.url).writer_killed()
    faults.judge(observed, WRITERS, running.store.begun_anew)


@pytest.mark.slow
@pytest.mark.fault("ClickHouse in process, events", "owner killed (SIGKILL), another takes its folder")
def test_the_owner_of_the_events_killed(tmp_path: Path, faults: Faults) -> None:
    observed = Drill("events", f"chdb://{tmp_path / 'clickhouse'}", n_writers=1, n_streams=2).writer_killed()
    faults.judge(observed, "1 owner × 2 streams", "each event is there once, also when appended again")


@pytest.fixture
def s3() -> Iterator[S3Server]:
    server = S3Server()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def models_drill(s3: S3Server, port: int | None = None) -> Drill:
    url = f"s3://{s3.bucket}/faults"
    return Drill("models", url, n_streams=2, n_before=5, n_after=3, environment=s3.environment(port))


@pytest.mark.fault("S3, model versions", "frozen (SIGSTOP), thawed")
def test_s3_frozen(s3: S3Server, faults: Faults) -> None:
    observed = models_drill(s3).fault(s3.freeze, s3.thaw)
    faults.judge(
        observed,
        f"2 publishers × 2 streams, away {AWAY_S:g} s",
        "no half version; a repeat finds its first try",
    )


@pytest.mark.slow
@pytest.mark.fault("S3, model versions", "endpoint killed (SIGKILL), started again")
def test_s3_endpoint_killed(s3: S3Server, faults: Faults) -> None:
    port = free_port()
    forwarders = [start_forwarder(LOOPBACK, port, s3.port)]
    try:
        observed = models_drill(s3, port).fault(
            lambda: end(forwarders.pop()),
            lambda: forwarders.append(start_forwarder(LOOPBACK, port, s3.port)),
        )
    finally:
        for forwarder in forwarders:
            end(forwarder)
    faults.judge(
        observed,
        f"2 publishers × 2 streams, away {AWAY_S:g} s",
        "no half version; a repeat finds its first try",
    )


@pytest.mark.slow
@pytest.mark.fault("S3, model versions", "publishers killed (SIGKILL), the work begun anew")
def test_s3_publishers_killed(s3: S3Server, faults: Faults) -> None:
    observed = models_drill(s3).writer_killed()
    faults.judge(observed, "2 publishers × 2 streams", "each publication is one version")
