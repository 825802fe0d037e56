"""The event store on the real ClickHouse engine, in process and over HTTP."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import chain

import pytest

from levibot.errors import DataError, StoreError, UsageError
from levibot.stores.event import MAX_EVENT_BYTES
from levibot.stores.event_query import EventCursor
from levibot.stores.events import Event, EventQuery, EventStore
from tests.servers.clickhouse import ClickHouseProcess

pytestmark = pytest.mark.stores

NOON = datetime(2021, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module", params=["in process", "over HTTP"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    """One engine for the module: a process can have one folder open at a time."""
    folder = tmp_path_factory.mktemp("events")
    if request.param == "in process":
        store = EventStore.open(f"chdb://{folder}")
        yield store
        store.close()
        return
    with ClickHouseProcess(folder) as server:
        store = EventStore.open(server.url)
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
        (Event("x", "", NOON.replace(year=1969), {}), "not in 1970 to 2200"),
        (Event("x\ud800", "", NOON, {}), "not Unicode"),
        (Event("x", "", NOON, {"v": "y" * MAX_EVENT_BYTES}), f"more than {MAX_EVENT_BYTES}"),
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


def test_what_the_engine_refuses_is_a_store_error(store: EventStore) -> None:
    store._client.command("RENAME TABLE events TO hidden")
    try:
        with pytest.raises(StoreError, match=r"refused to read: .*UNKNOWN_TABLE"):
            store.read(10)
    finally:
        store._client.command("RENAME TABLE hidden TO events")


def follow(store: EventStore, query: EventQuery) -> Iterator[list[Event]]:
    """Page after page, to the last one."""
    while True:
        page = store.page(query)
        yield list(page.events)
        if page.next_cursor is None:
            return
        # As a caller does it: through text.
        query = replace(query, after=EventCursor.parse(page.next_cursor.text()))


def test_the_pages_together_are_the_list(store: EventStore, kind: str) -> None:
    # Many events of one instant: the place in the list is more than a time.
    written = [replace(event, ts=event.ts.replace(second=0)) for event in events(kind, 50)]
    store.append(written)
    store.append(written[10:30])
    expected = store.read(100, event_type=kind)
    assert sorted(e.event_id for e in expected) == sorted(e.event_id for e in written)
    for limit, n_pages in ((7, 8), (10, 5), (25, 2), (49, 2), (50, 1), (51, 1)):
        pages = list(follow(store, EventQuery(limit, kind)))
        assert (len(pages), list(chain(*pages))) == (n_pages, expected)
    since = EventQuery(3, kind, since=NOON - timedelta(seconds=30))
    assert list(chain(*follow(store, since))) == [e for e in expected if since.since and e.ts >= since.since]


def test_no_page_repeats_or_skips_an_event_while_others_are_appended(store: EventStore, kind: str) -> None:
    rng = random.Random(7)
    written = events(kind, 60)
    store.append(written)
    seen: list[Event] = []
    for page in follow(store, EventQuery(9, kind)):
        seen += page
        # Before, behind and between, new ones and repeats.
        late = [Event(kind, "BTCUSDT", NOON - rng.uniform(-60, 120) * SECOND, {}) for _ in range(5)]
        store.append([*late, *rng.sample(written, 5)])
    counted = Counter(event.event_id for event in seen)
    assert set(counted.values()) == {1}
    assert {event.event_id for event in written} <= set(counted)
    assert seen == sorted(seen, key=lambda e: (e.ts, e.event_id), reverse=True)


def test_every_list_is_what_a_plain_sort_says(store: EventStore, kind: str) -> None:
    # Market time jumps back when a replay begins again; a type may be rare, an hour crowded, a repeat late.
    rng = random.Random(11)
    starts = [datetime(2023, 1, day, tzinfo=UTC) for day in (1, 9, 2, 30, 1)]
    kinds = [f"{kind}-{name}" for name in ("often", "often", "often", "often", "seldom", "once")]
    written: list[Event] = []
    for start in starts:
        batch = [
            Event(
                rng.choice(kinds[: 5 if start.day > 1 else 6]),
                symbol,
                start + timedelta(minutes=i**2 // 7),
                {},
            )
            for i in range(60)
            for symbol in rng.sample(("", "BTCUSDT", "ETHUSDT"), 1)
        ]
        written += batch
        store.append(batch + rng.sample(written, 20))
    for _ in range(60):
        query = EventQuery(
            rng.choice((1, 2, 10, 60, 400)),
            rng.choice(kinds),
            rng.choice((None, None, "", "BTCUSDT")),
            rng.choice((None, starts[1] + timedelta(minutes=31), rng.choice(written).ts)),
            after=rng.choice((None, EventCursor((e := rng.choice(written)).ts, e.event_id))),
        )
        expected = [
            e
            for e in sorted(written, key=lambda e: (e.ts, e.event_id), reverse=True)
            if e.event_type == query.event_type
            and query.symbol in (None, e.symbol)
            and (query.since is None or e.ts >= query.since)
            and (query.after is None or (e.ts, e.event_id) < (query.after.ts, query.after.event_id))
        ]
        page = store.page(query)
        assert list(page.events) == expected[: query.limit]
        assert (page.next_cursor is None) == (len(expected) <= query.limit)


def test_a_list_is_whole_also_where_the_hourly_counts_are_wrong(store: EventStore, kind: str) -> None:
    # A time that no other test writes at: the list has no filter but the time.
    first = datetime(2035, 1, 1, tzinfo=UTC)
    written = [Event(kind, "BTCUSDT", first + timedelta(hours=30 - i), {}) for i in range(30)]
    store.append(written)
    # Counted, and not there: the counts say that one hour is enough.
    store._client.command(
        "INSERT INTO events_hourly (arrived_on, hour, event_type, symbol, n_rows) "
        "SELECT today(), hour, event_type, symbol, 1000 FROM events_hourly WHERE event_type = {kind:String}",
        parameters={"kind": kind},
    )
    assert list(store.page(EventQuery(20, since=first)).events) == written[:20]
    # There, and not counted.
    store._client.command("ALTER TABLE events_hourly DELETE WHERE 1 SETTINGS mutations_sync = 2")
    assert list(store.page(EventQuery(20, since=first)).events) == written[:20]
    assert list(store.page(EventQuery(100, since=first)).events) == written


def test_a_page_without_events_is_the_last(store: EventStore, kind: str) -> None:
    page = store.page(EventQuery(10, kind))
    assert (page.events, page.next_cursor) == ((), None)


def test_the_events_of_one_request_are_found_by_its_trace(store: EventStore, kind: str) -> None:
    trace_id = uuid.uuid4().hex
    written = [replace(event, trace_id=trace_id) for event in events(kind, 3)]
    store.append([*written, *events(kind, 3)])
    assert list(store.page(EventQuery(10, trace_id=trace_id)).events) == written


def test_an_hourly_count_knows_an_event_once_however_often_it_was_appended(
    store: EventStore, kind: str
) -> None:
    start = datetime(2022, 1, 1, tzinfo=UTC)
    written = [Event(kind, "BTCUSDT", start + timedelta(minutes=7 * i), {}) for i in range(60)]
    for _ in range(3):
        store.append(written)
    # A repeat that arrives on another day lies in another partition.
    store._client.command(
        "INSERT INTO events (event_type, symbol, ts, event_id, trace_id, payload, arrived_at) "
        "SELECT event_type, symbol, ts, event_id, trace_id, payload, now() - INTERVAL 5 DAY FROM events "
        "WHERE event_type = {kind:String}",
        parameters={"kind": kind},
    )
    expected = Counter(event.ts.replace(minute=0) for event in written)

    def found(since: datetime) -> dict[datetime, int]:
        return {c.hour: c.n_events for c in store.hourly(since) if c.event_type == kind}

    assert found(start) == expected
    assert found(start + timedelta(hours=3, minutes=59)) == {
        hour: n for hour, n in expected.items() if hour >= start + timedelta(hours=3)
    }
    for table in ("events", "events_hourly"):
        store._client.command(f"OPTIMIZE TABLE {table} FINAL")
    assert found(start) == expected
    with pytest.raises(UsageError, match="without a time zone"):
        store.hourly(start.replace(tzinfo=None))


def test_events_end_30_days_after_they_arrived_and_no_sooner(store: EventStore, kind: str) -> None:
    ages_days = (0, 1, 29, 32, 45, 400)
    store.append([Event(kind, "BTCUSDT", NOON, {}, event_id=f"{kind}-{days}") for days in ages_days])
    store._client.command(
        "INSERT INTO events (event_type, symbol, ts, event_id, trace_id, payload, arrived_at) SELECT "
        "event_type, 'OLD', ts, event_id, trace_id, payload, "
        "now() - toIntervalDay(toUInt32(arrayLast(x -> 1, splitByChar('-', event_id)))) FROM events "
        "WHERE event_type = {kind:String}",
        parameters={"kind": kind},
    )
    for table in ("events", "events_hourly", "events_listed"):
        store._client.command(f"OPTIMIZE TABLE {table} FINAL")
    left = store._client.query(
        "SELECT event_id FROM events WHERE event_type = {kind:String} AND symbol = 'OLD'",
        parameters={"kind": kind},
    ).result_rows
    assert {event_id for (event_id,) in left} == {f"{kind}-{days}" for days in (0, 1, 29)}
    # A list keeps its weeks whole: the row that is 32 days old may have a younger one beside it.
    listed = {event.event_id for event in store.page(EventQuery(100, kind, "OLD")).events}
    assert {f"{kind}-{days}" for days in (0, 1, 29)} <= listed
    assert not {f"{kind}-{days}" for days in (45, 400)} & listed
    (counted,) = store._client.query(
        "SELECT uniqExactMerge(ids) FROM events_hourly WHERE event_type = {kind:String} AND symbol = 'OLD'",
        parameters={"kind": kind},
    ).result_rows
    assert counted == (3,)


@pytest.mark.parametrize(
    "text", ["", "?", "AAAA", "W10", "bnVsbA", "WzEsMl0", "WyIxIiwieCJd", "x" * 5000, "µ"]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a cursor"):
        EventCursor.parse(text)
