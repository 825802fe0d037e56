"""Every part of a served system killed and frozen under steady requests; what came of it is written down."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import psutil
import pytest

from tests.faults import sections
from tests.faults.page import PAGE
from tests.faults.plugin import WRITE
from tests.system.callers import Seen, calling
from tests.system.conftest import LiveSystem, start_system, wait_for
from tests.system.matrix_page import Row, listed, render
from tests.system.test_faults import EVER, is_served, market_time

pytestmark = [pytest.mark.system, pytest.mark.ray, pytest.mark.stores]

RATE_PER_S = 50.0
# Longer than Serve takes to find a replica that does not answer, and to replace it.
FROZEN_S = 15.0
BACK_WITHIN_S = 30.0
QUIET_S = 3.0
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
NODE = "worker node"
# The name that a part has in the table, and words of its command line.
PARTS = {
    "replica: Api": "ServeReplica:default:Api",
    "replica: Router": "ServeReplica:default:Router",
    "replica: LightGBM": "ServeReplica:default:LightGBM",
    "actor: MarketFeed": "ray::MarketFeed",
    "actor: OnlineFeatures": "ray::OnlineFeatures",
    "actor: EventLog, owner of the ClickHouse engine": "ray::EventLog",
    "actor: FeatureHistory": "ray::FeatureHistory",
    "actor: FeatureMonitor": "ray::FeatureMonitor",
    "actor: ShadowLedger": "ray::ShadowLedger",
    "actor: EnsembleWeights": "ray::EnsembleWeights",
    "actor: OutsideData": "ray::OutsideData",
    "actor: DeadLetterReplayer": "ray::DeadLetterReplayer",
    "actor: WebhookIntake": "ray::WebhookIntake",
    "Serve's controller": "ray::ServeController",
    "Redis": "redis",
    "PostgreSQL": "postgres",
    "Ray's dashboard": "ray/dashboard/dashboard.py",
    NODE: "",
}
FAULTS = ("killed", "frozen")
TWO_FACES = {
    "applications": [
        {
            "name": "default",
            "route_prefix": "/",
            "import_path": "deployments.app:app",
            "deployments": [{"name": "Api", "num_replicas": 2}],
        }
    ]
}


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """What the drills showed; a run of all of them writes the section."""
    seen: list[Row] = []
    yield seen
    if os.environ.get(WRITE) and len(seen) == len(PARTS) * len(FAULTS):
        text = render(seen, rate_per_s=RATE_PER_S, frozen_s=FROZEN_S, bound_s=BACK_WITHIN_S)
        sections.write(system=text)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSystem]:
    """A system of its own, with two replicas of the face."""
    folder = tmp_path_factory.mktemp("matrix")
    live = start_system(folder / "home", LEVIBOT_SYMBOLS=",".join(SYMBOLS))
    try:
        live.wait_until_ready()
        (folder / "two.yaml").write_text(json.dumps(TWO_FACES))
        deploy = f"serve deploy --address {live.record.dashboard_url} {folder / 'two.yaml'}"
        told, _ = live.in_second_shell(deploy).communicate(timeout=120)
        wait_for(lambda: len(faces(live)) == 2 and is_served(live, EVER), 180, f"a second replica: {told}")
        # The job that goes on after the model is live has its turn first.
        time.sleep(10.0)
        yield live
    finally:
        if live.process.poll() is None:
            live.stop()


def faces(live: LiveSystem) -> list[int]:
    return live.pids_of(PARTS["replica: Api"])


@pytest.fixture
def node(served: LiveSystem) -> Iterator[Callable[[], int]]:
    """Joins a second node to the cluster; gives the process that is the node. It carries no replica."""
    joined: list[subprocess.Popen[str]] = []

    def join() -> int:
        words = "--block --num-cpus 0 --node-ip-address 127.0.0.1 --object-store-memory 80000000"
        address = served.record.ray_address
        joined.append(served.in_second_shell(f"ray start --address {address} {words} --disable-usage-stats"))
        return wait_for_raylet(joined[0].pid)

    yield join
    for process in joined:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for child in below:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.communicate()


def wait_for_raylet(pid: int) -> int:
    found: list[int] = []

    def is_there() -> bool:
        with suppress(psutil.NoSuchProcess):
            found[:] = [p.pid for p in psutil.Process(pid).children(recursive=True) if p.name() == "raylet"]
        return bool(found)

    wait_for(is_there, 60, "a second node")
    time.sleep(3.0)
    return found[0]


def whole(pid: int) -> Sequence[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def injure(pid: int, fault: str) -> None:
    """Kill the process; or freeze it and all below it, for FROZEN_S."""
    if fault == "killed":
        psutil.Process(pid).kill()
        return
    frozen = whole(pid)
    for process in frozen:
        process.suspend()
    try:
        time.sleep(FROZEN_S)
    finally:
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def has_another(live: LiveSystem, words: str, killed: int) -> bool:
    with suppress(LookupError, psutil.NoSuchProcess):
        return live.pid_of(words) != killed
    return False


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", PARTS)
def test_callers_that_ask_twice_see_no_failure_and_nobody_is_told_a_wrong_thing(
    served: LiveSystem, node: Callable[[], int], rows: list[Row], part: str, fault: str
) -> None:
    wait_for(lambda: is_served(served, EVER) and len(faces(served)) == 2, 90, "service by two faces")
    skip_where_busy(served)
    pid = node() if part == NODE else served.pid_of(PARTS[part])
    with calling(served.url, served.headers, SYMBOLS, RATE_PER_S) as seen:
        time.sleep(2.0)
        if fault == "killed":
            injured_at = market_time(served)
            injure(pid, fault)
        else:
            injure(pid, fault)
            injured_at = market_time(served)
        since = time.monotonic()
        wait_for(
            lambda: is_served(served, injured_at), 2 * BACK_WITHIN_S, f"service after {part} was {fault}"
        )
        back_s = time.monotonic() - since
        if fault == "killed" and part not in (NODE, "replica: Api"):
            wait_for(lambda: has_another(served, PARTS[part], pid), BACK_WITHIN_S, f"the return of {part}")
        time.sleep(2.0)
    wrong = seen.wrong()
    rows.append(row_of(part, fault, seen, len(wrong), back_s))

    assert len(seen.requests) > 4.0 * RATE_PER_S
    assert wrong == []
    assert seen.failed == 0, rows[-1]
    assert back_s <= BACK_WITHIN_S, rows[-1]


def skip_where_busy(served: LiveSystem) -> None:
    """Where requests fail although nothing is broken, the machine is measured and not the fault."""
    with calling(served.url, served.headers, SYMBOLS, RATE_PER_S) as seen:
        time.sleep(QUIET_S)
    n, load = len(seen.requests), os.getloadavg()[0]
    if seen.failed_at_first or n < 0.9 * QUIET_S * RATE_PER_S:
        pytest.skip(
            f"The machine is too busy (load average {load:.1f}): of {QUIET_S * RATE_PER_S:.0f} requests with "
            f"every part whole {n} were sent and {seen.failed_at_first} failed."
        )


def row_of(part: str, fault: str, seen: Seen, n_wrong: int, back_s: float) -> Row:
    return Row(
        part,
        fault,
        len(seen.requests),
        seen.failed_at_first,
        seen.failed,
        n_wrong,
        seen.stale,
        back_s,
        seen.slowest_s,
    )


def test_the_page_has_a_row_for_each_part_and_fault() -> None:
    _, system = sections.split(PAGE.read_text())
    if not system:
        pytest.skip("No run of the matrix has written its section yet: it takes a machine that is not busy.")
    assert sorted(listed(system)) == sorted((part, fault) for part in PARTS for fault in FAULTS), (
        "make it anew: make faults"
    )
