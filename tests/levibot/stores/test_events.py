"""The event store on the real ClickHouse engine, in process and over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import IO

import pytest

from levibot.errors import DataError, SettingsError, StoreError, StoreUnavailable, UsageError
from levibot.stores.events import Event, EventStore

pytestmark = pytest.mark.stores

NOON = datetime(2021, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
SECOND = timedelta(seconds=1)

WRITER = """
import sys
from datetime import UTC, datetime
from levibot.stores.events import Event, EventStore
store = EventStore.open(sys.argv[1])
number = 0
while True:
    store.append([Event("bar", "BTCUSDT", datetime.now(UTC), {}, event_id=str(number))])
    print(number, flush=True)
    number += 1
"""
READER = """
import sys
from levibot.stores.events import EventStore
store = EventStore.open(sys.argv[1])
print(*(event.event_id for event in store.read(10_000)))
store.close()
"""


SERVER = Path(__file__).parents[2] / "fakes" / "clickhouse_server.py"


@pytest.fixture(scope="module", params=["in process", "over HTTP"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    """One engine for the module: a process can have one folder open at a time."""
    folder = tmp_path_factory.mktemp("events")
    if request.param == "in process":
        store = EventStore.open(f"chdb://{folder}")
        yield store
        store.close()
        return
    with _process(str(SERVER), str(folder)) as (_, output):
        store = EventStore.open(f"http://127.0.0.1:{int(output.readline())}")
        yield store
        store.close()


@pytest.fixture
def kind() -> str:
    """An event type that no other test writes."""
    return f"kind-{uuid.uuid4().hex}"


def events(kind: str, n: int) -> list[Event]:
    """n events, one a second, newest first."""
    return [Event(kind, "BTCUSDT", NOON - i * SECOND, {"n": i}) for i in range(n)]


def test_an_event_comes_back_as_written(store: EventStore, kind: str) -> None:
    payload = {"x": 0.1 + 0.2, "list": [1, None, True], "deep": {"quote": 'it\'s "µ" \\ \n ; --'}}
    event = Event(kind, "ETHUSDT", NOON, payload, trace_id="0af7651916cd43dd")
    store.append([event])
    assert store.read(10, event_type=kind) == [event]


def test_the_newest_events_come_first(store: EventStore, kind: str) -> None:
    written = events(kind, 20)
    store.append(written[7:])
    store.append(written[:7])
    assert store.read(5, event_type=kind) == written[:5]
    assert store.read(100, event_type=kind) == written


def test_an_event_that_is_appended_again_is_read_once(store: EventStore, kind: str) -> None:
    written = events(kind, 10)
    before = store.count()
    for _ in range(4):
        store.append(written)
    assert store.read(10, event_type=kind) == written
    assert store.read(3, event_type=kind) == written[:3]
    assert store.count() == before + 10


def test_events_are_filtered_by_type_symbol_and_time(store: EventStore, kind: str) -> None:
    mine = events(kind, 6)
    mine[1], mine[4] = replace(mine[1], symbol="ETHUSDT"), replace(mine[4], symbol="ETHUSDT")
    store.append(mine)
    store.append(events(kind + "-other", 3))
    assert store.read(10, event_type=kind, symbol="ETHUSDT") == [mine[1], mine[4]]
    assert store.read(10, event_type=kind, since=NOON - 2 * SECOND) == mine[:3]
    assert store.read(10, kind, "ETHUSDT", NOON - 3 * SECOND) == [mine[1]]


def test_any_time_zone_is_the_same_instant(store: EventStore, kind: str) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    store.append([Event(kind, "", tokyo, {})])
    (found,) = store.read(10, event_type=kind, since=tokyo)
    assert (found.ts, found.ts.tzinfo) == (NOON, UTC)


def test_a_filter_is_a_value_and_never_sql(store: EventStore, kind: str) -> None:
    store.append(events(kind, 2))
    for text in (f"{kind}' OR 1=1 --", "'", "\\", "{event_type:String}", "%", "µ\n"):
        assert store.read(10, event_type=text) == []
        assert store.read(10, event_type=kind, symbol=text) == []
    odd = f"{kind}'; DROP TABLE events; --"
    store.append([Event(odd, "\\'", NOON, {})])
    assert [e.symbol for e in store.read(10, event_type=odd, symbol="\\'")] == ["\\'"]


def test_events_of_many_years_fit_one_append(store: EventStore, kind: str) -> None:
    # A replay writes market days by the hundred in one batch; and old market time does not end a row's life.
    written = [Event(kind, "BTCUSDT", NOON - timedelta(days=5 * i), {}) for i in range(500)]
    store.append(written)
    store._client.command("OPTIMIZE TABLE events FINAL")
    assert store.read(1000, event_type=kind) == written


def test_no_events_are_no_write(store: EventStore) -> None:
    before = store.count()
    store.append([])
    assert store.count() == before


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (Event("x", "", NOON.replace(tzinfo=None), {}), "without a time zone"),
        (Event("x", "", NOON, {"v": float("nan")}), "not JSON"),
        (Event("x", "", NOON, {"v": object()}), "not JSON"),
    ],
)
def test_a_broken_event_stops_the_whole_append(
    store: EventStore, kind: str, event: Event, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        store.append([*events(kind, 2), event])
    assert store.read(10, event_type=kind) == []


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_limit_out_of_bounds_is_refused(store: EventStore, limit: int) -> None:
    with pytest.raises(UsageError, match="limit is"):
        store.read(limit)


def test_since_needs_a_time_zone(store: EventStore) -> None:
    with pytest.raises(UsageError, match="without a time zone"):
        store.read(10, since=NOON.replace(tzinfo=None))


def test_ping_takes_time(store: EventStore) -> None:
    assert store.ping() > 0.0


def test_a_folder_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path / 'events'}"
    with _process("-c", WRITER, url) as (_, output):
        output.readline()
        done = _run(READER, url)
    assert done.returncode == 1
    assert "is in use by another process. Read through its owner" in done.stderr


def test_what_the_engine_refuses_is_a_store_error(store: EventStore) -> None:
    store._client.command("RENAME TABLE events TO hidden")
    try:
        with pytest.raises(StoreError, match=r"refused to read: .*UNKNOWN_TABLE"):
            store.read(10)
    finally:
        store._client.command("RENAME TABLE hidden TO events")


@pytest.mark.parametrize("url", ["", "events", "chdb://relative/folder", "postgresql://host/db", "http://"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="chdb:///absolute/folder"):
        EventStore.open(url)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=r"No answer from ClickHouse at 127\.0\.0\.1"):
        EventStore.open("http://user:secret@127.0.0.1:1/default", timeout_s=1.0)


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path / 'events'}"
    with _process("-c", WRITER, url) as (pid, output):
        acknowledged = [output.readline().strip() for _ in range(40)]
        os.kill(pid, signal.SIGKILL)
        acknowledged += output.read().split()
    assert acknowledged[:40] == [str(n) for n in range(40)]
    found = _run(READER, url).stdout.split()
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)


def test_a_closed_store_is_an_error_and_opens_again(tmp_path: Path) -> None:
    code = """
import sys
from datetime import UTC, datetime
from levibot.errors import StoreError
from levibot.stores.events import Event, EventStore
store = EventStore.open(sys.argv[1])
store.append([Event("bar", "BTCUSDT", datetime.now(UTC), {})])
store.close()
try:
    store.count()
except StoreError as exc:
    print("refused")
store = EventStore.open(sys.argv[1])
print(store.count())
store.close()
"""
    done = _run(code, f"chdb://{tmp_path / 'events'}")
    assert done.stdout.split() == ["refused", "1"], done.stderr


@contextmanager
def _process(*arguments: str) -> Iterator[tuple[int, IO[str]]]:
    """A Python process and its output, killed at the end."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout
        finally:
            process.kill()


def _run(code: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=False, timeout=60
    )
