"""The SQL of ClickHouse: applied once, in order, safe to interrupt anywhere, and never changed silently."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from levibot.errors import StoreError
from levibot.stores.clickhouse import open_clickhouse
from levibot.stores.clickhouse_migrations import migrate_clickhouse, statements
from levibot.stores.migrations import sql_files

pytestmark = pytest.mark.stores

FILES = sql_files("clickhouse")
NAMES = [path.name for path in FILES]
LISTED = (
    "SELECT listed_type, listed_symbol, uniqExact(event_id) FROM events_listed "
    "GROUP BY ALL ORDER BY listed_type, listed_symbol"
)
CONTENT = "SELECT event_id, count() FROM events GROUP BY event_id ORDER BY event_id"
N_STATEMENTS = sum(len(statements(path.read_text())) for path in FILES)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    client, _ = open_clickhouse(f"chdb://{tmp_path_factory.mktemp('engine')}", timeout_s=10.0)
    yield client
    client.close()


@pytest.fixture
def client(engine: Client) -> Client:
    """An empty database for each test."""
    for (table,) in engine.query("SHOW TABLES").result_rows:
        engine.command(f"DROP TABLE {table} SYNC")
    return engine


def as_it_was_in_version_0_1_0(client: Client) -> None:
    """The first file applied, without a record of it, and three events."""
    (statement,) = statements(FILES[0].read_text())
    client.command(statement)
    client.command(
        "INSERT INTO events (event_type, symbol, ts, event_id, payload) SELECT 'bars', 'X', now64(6), "
        "toString(number), '{}' FROM numbers(3)"
    )


def tables(client: Client) -> set[str]:
    return {name for (name,) in client.query("SHOW TABLES").result_rows}


def test_each_file_is_applied_once(client: Client) -> None:
    assert migrate_clickhouse(client, "here") == NAMES
    assert migrate_clickhouse(client, "here") == []
    assert tables(client) == {
        "events",
        "events_hourly",
        "events_to_hourly",
        "events_listed",
        "events_to_listed",
        "schema_migrations",
    }


def test_events_of_version_0_1_0_are_kept_and_counted(client: Client) -> None:
    as_it_was_in_version_0_1_0(client)
    migrate_clickhouse(client, "here")
    assert client.query(CONTENT).result_rows == [("0", 1), ("1", 1), ("2", 1)]
    assert client.query("SELECT uniqExactMerge(ids) FROM events_hourly").result_rows == [(3,)]
    assert client.query(LISTED).result_rows == [("", "X", 3), ("bars", "", 3), ("bars", "X", 3)]
    assert "ORDER BY (ts, event_id)" in str(client.command("SHOW CREATE TABLE events"))


@pytest.mark.parametrize("n_done", range(N_STATEMENTS))
def test_an_interruption_after_any_statement_loses_and_doubles_nothing(client: Client, n_done: int) -> None:
    as_it_was_in_version_0_1_0(client)
    interrupted = Interrupted(client, n_done)
    with pytest.raises(KeyboardInterrupt):
        migrate_clickhouse(interrupted, "here")  # type: ignore[arg-type]
    migrate_clickhouse(client, "here")
    assert migrate_clickhouse(client, "here") == []
    client.command("OPTIMIZE TABLE events FINAL")
    assert client.query(CONTENT).result_rows == [("0", 1), ("1", 1), ("2", 1)]
    assert client.query("SELECT uniqExactMerge(ids) FROM events_hourly").result_rows == [(3,)]
    assert client.query(LISTED).result_rows == [("", "X", 3), ("bars", "", 3), ("bars", "X", 3)]
    assert "events_next" not in tables(client)


class Interrupted:
    """The client of a process that ends after so many statements of the files."""

    def __init__(self, client: Client, n_done: int) -> None:
        self._client = client
        self._n_left = n_done
        self.query, self.insert = client.query, client.insert

    def command(self, statement: str) -> object:
        if "schema_migrations" not in statement:
            if self._n_left == 0:
                raise KeyboardInterrupt
            self._n_left -= 1
        return self._client.command(statement)


def test_a_file_that_was_changed_after_it_was_applied_is_refused(client: Client, tmp_path: Path) -> None:
    migrate_clickhouse(client, "here")
    changed = tmp_path / FILES[0].name
    changed.write_text(FILES[0].read_text() + "-- changed\n")
    with pytest.raises(StoreError, match=rf"{FILES[0].name} was changed after here had applied it"):
        migrate_clickhouse(client, "here", (changed, *FILES[1:]))


def test_a_database_of_a_newer_version_is_refused(client: Client, tmp_path: Path) -> None:
    newer = tmp_path / "0999_newer.sql"
    newer.write_text("CREATE TABLE IF NOT EXISTS newer (x UInt8) ENGINE = MergeTree ORDER BY x;\n")
    migrate_clickhouse(client, "here", (*FILES, newer))
    with pytest.raises(StoreError, match=r"0999_newer\.sql, which this version does not know"):
        migrate_clickhouse(client, "here")


def test_a_file_that_fails_is_not_recorded(client: Client, tmp_path: Path) -> None:
    broken = tmp_path / "0998_broken.sql"
    broken.write_text("CREATE TABLE half (x UInt8) ENGINE = Memory;\n\nSELECT * FROM nowhere;\n")
    with pytest.raises(StoreError, match="refused to migrate"):
        migrate_clickhouse(client, "here", (*FILES, broken))
    assert migrate_clickhouse(client, "here") == []


def test_opening_a_store_twice_in_a_row_migrates_once(tmp_path: Path) -> None:
    code = """
import sys
from levibot.stores.events import EventStore
for _ in range(2):
    store = EventStore.open(sys.argv[1])
    print(store._client.query("SELECT count() FROM schema_migrations").result_rows[0][0])
    store.close()
"""
    url = f"chdb://{tmp_path / 'events'}"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(FILES))] * 2
