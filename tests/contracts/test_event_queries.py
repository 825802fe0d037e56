"""What the ten queries on the events read: rows that the engine touched, never time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.event_queries import Compared, compare
from benchmarks.event_table import EventTable, granule_rows

pytestmark = pytest.mark.stores

N_ROWS = 300_000
# In granules of the table, of which there are 293. What is behind a request is spread over it.
FEW, SPREAD = 40, 100


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventTable]:
    table = EventTable(tmp_path_factory.mktemp("events"), N_ROWS)
    yield table
    table.close()


@pytest.fixture(scope="module")
def compared(table: EventTable) -> dict[str, Compared]:
    return {row.asked.name: row for row in compare(table)}


QUERIES = {
    "newest": FEW,
    "newest of a type": FEW,
    "newest of a symbol": FEW,
    "newest of a type and symbol": FEW,
    "newest since an instant": FEW,
    "page after a cursor": FEW,
    "page of a type and symbol": FEW,
    "newest refused models": FEW,
    "events of one request": SPREAD,
    "events an hour and type, one day": FEW,
}


def test_there_are_ten(compared: dict[str, Compared]) -> None:
    assert list(compared) == list(QUERIES)
    assert len(QUERIES) == 10


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_reads_few_granules(table: EventTable, compared: dict[str, Compared], name: str) -> None:
    if "events_listed" not in compared[name].asked.after:
        # The plan: what the sorting key, the indexes and the hourly counts leave. Of a list it names all.
        assert compared[name].after.granules <= QUERIES[name]
    # What was then read, the hourly counts with it.
    assert compared[name].after.n_rows / granule_rows(table.client, "events") <= QUERIES[name]


def test_a_part_of_the_lists_is_one_file(table: EventTable) -> None:
    parts = table.client.query(
        "SELECT part_type, max(data_uncompressed_bytes) FROM system.parts "
        "WHERE active AND table = 'events_listed' GROUP BY part_type"
    ).result_rows
    # Some of them are of a size that would be a file a column by default, which is 10 MiB.
    assert [part_type for part_type, _ in parts] == ["Compact"]
    assert parts[0][1] > 10 * 2**20


@pytest.mark.parametrize(
    "name",
    ["newest", "newest of a type", "newest of a symbol", "newest refused models", "events of one request"],
)
def test_the_table_of_version_0_1_0_would_break_the_bound(
    table: EventTable, compared: dict[str, Compared], name: str
) -> None:
    assert compared[name].before.n_rows / granule_rows(table.client, "events") > QUERIES[name]


def test_a_table_without_its_index_would_break_the_bound(
    table: EventTable, compared: dict[str, Compared]
) -> None:
    asked = compared["events of one request"].asked
    reading = table.reading(f"{asked.after} SETTINGS use_skip_indexes = 0", asked.parameters)
    assert reading.n_rows / granule_rows(table.client, "events") > QUERIES[asked.name]
