"""The feature history against a slow oracle: a list of versions, searched from one end to the other."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.clock import ManualClock
from levibot.errors import DataError, StoreError, UsageError
from levibot.stores import history_writer
from levibot.stores.history_catalogue import Catalogue
from levibot.stores.history_rows import Known, Rows, Series
from levibot.stores.offline import OfflineStore

START = datetime(2024, 1, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
FOR_EVER = datetime.max.replace(tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
LABEL = "forward_return_4"
LATEST_US = np.iinfo(np.int64).max


class View:
    name = "small"
    version = "0123456789ab"
    names = ("a", "b")


FEATURES, LABELS = Series.of_view(View()), Series.of_label(LABEL)


def rows_of(
    series: Series, symbol: str, hours: Sequence[float], values: Sequence[Any], known_after: float = 0.0
) -> Rows:
    """Rows so many hours after START. values: a number a row, repeated in each column."""
    event = np.array([START.replace(tzinfo=None) + h * HOUR for h in hours], dtype="datetime64[us]")
    known = event + np.timedelta64(round(known_after * 3600), "s")
    columns = [[float(value) + k for k in range(len(series.columns))] for value in values]
    return Rows(series, symbol, event, known, np.array(columns).reshape(len(hours), len(series.columns)))


@dataclass
class Oracle:
    """Every version in a list: (series, symbol, event, available, values)."""

    versions: list[tuple[str, str, datetime, datetime, tuple[float, ...]]] = field(default_factory=list)

    def add(self, rows: Rows, available: datetime | None) -> None:
        for event, known, values in zip(
            rows.event_ts.tolist(), rows.known_at.tolist(), rows.values.tolist(), strict=True
        ):
            event, known = event.replace(tzinfo=UTC), known.replace(tzinfo=UTC)
            newest = self.known(rows.series.kind, rows.symbol, event, FOR_EVER)
            if available is None:
                first = self.first(rows.series.kind, rows.symbol, event)
                if first is not None and first[0] <= known:
                    continue
            elif newest is not None and same(newest, tuple(values)):
                continue
            self.versions.append((rows.series.kind, rows.symbol, event, available or known, tuple(values)))

    def contradicts(self, rows: Rows) -> bool:
        """Whether the first version of a row says something else."""
        for event, values in zip(rows.event_ts.tolist(), rows.values.tolist(), strict=True):
            first = self.first(rows.series.kind, rows.symbol, event.replace(tzinfo=UTC))
            if first is not None and not same(first[1], values):
                return True
        return False

    def first(self, kind: str, symbol: str, event: datetime) -> tuple[datetime, tuple[float, ...]] | None:
        versions = [(v[3], v[4]) for v in self.versions if v[:3] == (kind, symbol, event)]
        return min(versions, key=lambda version: version[0], default=None)

    def known(self, kind: str, symbol: str, event: datetime, as_of: datetime) -> tuple[float, ...] | None:
        newest: tuple[datetime, tuple[float, ...]] | None = None
        for of_kind, of_symbol, at, available, values in self.versions:
            is_candidate = (of_kind, of_symbol, at) == (kind, symbol, event) and available <= as_of
            if is_candidate and (newest is None or available > newest[0]):
                newest = available, values
        return None if newest is None else newest[1]

    def events(self, kind: str, symbol: str, as_of: datetime) -> list[datetime]:
        return sorted({v[2] for v in self.versions if v[:2] == (kind, symbol) and v[3] <= as_of})

    def training_set(
        self, start: datetime, end: datetime, as_of: datetime, max_age: timedelta
    ) -> list[tuple[str, datetime, float, tuple[float, ...]]]:
        found = []
        for symbol in SYMBOLS:
            for event in self.events("label", symbol, as_of):
                before = [e for e in self.events("features", symbol, as_of) if e <= event]
                if not start <= event < end or not before or event - before[-1] > max_age:
                    continue
                label = self.known("label", symbol, event, as_of)
                features = self.known("features", symbol, before[-1], as_of)
                assert label is not None
                assert features is not None
                found.append((symbol, event, label[0], features))
        return found


def same(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))


def assert_agree(
    store: OfflineStore, oracle: Oracle, as_of: datetime, start: datetime, end: datetime, max_age: timedelta
) -> None:
    """What the store answers at `as_of` is what the oracle knows."""
    got = store.get_training_set(View(), LABEL, start, end, as_of, symbols=SYMBOLS, max_age=max_age)
    expected = oracle.training_set(start, end, as_of, max_age)
    assert [SYMBOLS[k] for k in got.symbol] == [row[0] for row in expected]
    assert [at.replace(tzinfo=UTC) for at in got.event_ts.tolist()] == [row[1] for row in expected]
    assert got.label.tolist() == [row[2] for row in expected]
    for mine, (_, _, _, theirs) in zip(got.features.tolist(), expected, strict=True):
        assert same(mine, theirs)
    newest = store.get_features_at(View(), SYMBOLS, as_of)
    for k, symbol in enumerate(SYMBOLS):
        events = oracle.events("features", symbol, as_of)
        if not events:
            assert np.isnat(newest.event_ts[k])
            assert np.isnan(newest.values[k]).all()
            continue
        known = oracle.known("features", symbol, events[-1], as_of)
        assert newest.event_ts[k].item().replace(tzinfo=UTC) == events[-1]
        assert known is not None
        assert same(newest.values[k].tolist(), known)


# On the grid of the bars, off it, and over the end of a month.
hours = st.lists(st.integers(0, 12) | st.sampled_from([0.5, 3.25, 47.5, 48.5, 60]), unique=True, max_size=8)
numbers = st.sampled_from([0.0, 1.0, 2.0])
batches = st.lists(
    st.tuples(
        st.sampled_from([FEATURES, LABELS]),
        st.sampled_from(SYMBOLS),
        hours.map(sorted),
        st.lists(numbers | st.just(math.nan), min_size=8, max_size=8),
        st.sampled_from(["write", "reconstruct", "seal", "reopen"]),
    ),
    max_size=8,
)
queries = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 70), st.integers(1, 70), st.sampled_from([0, 1, 5])),
    min_size=1,
    max_size=4,
)


def play(
    folder: Path, batches: list[Any], asked: list[Any], check: Callable[..., None] = assert_agree
) -> None:
    """Write the batches one after the other, and ask in between and at the end."""
    clock = ManualClock(START + 80 * HOUR)
    oracle = Oracle()
    store = OfflineStore.open(folder, "test", clock)
    store.write([rows_of(series, "OTHER", [0], [0]) for series in (FEATURES, LABELS)], reason="test")
    instants = [clock.now()]
    for series, symbol, at, values, step in batches:
        clock.advance(3600.0)
        clean = [0.0 if series.kind == "label" and math.isnan(v) else v for v in values]
        rows = rows_of(series, symbol, at, clean[: len(at)], 5.0 if series.kind == "label" else 0.0)
        if step == "seal":
            store.seal(clock.now())
        elif step == "reopen":
            store.close()
            store = OfflineStore.open(folder, "test", clock)
        if step == "reconstruct":
            if oracle.contradicts(rows):
                with pytest.raises(DataError, match="stored with other values"):
                    store.write([rows], reason="test", is_reconstructed=True)
            else:
                store.write([rows], reason="test", is_reconstructed=True)
                oracle.add(rows, None)
        else:
            batch = store.write([rows], reason="test")
            oracle.add(rows, batch.available_from)
        instants.append(clock.now())
    for before_end, start_h, length_h, age_h in asked:
        as_of = instants[-1 - before_end % len(instants)]
        start = START + start_h * HOUR
        check(store, oracle, as_of, start, start + length_h * HOUR, age_h * HOUR)
    store.check()
    store.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_writer, "SEGMENT_ROWS", 3)


@given(batches=batches, asked=queries)
def test_the_history_agrees_with_a_slow_oracle(batches: list[Any], asked: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # So that some rows lie in files, and some in the database.
        patch.setattr(history_writer, "SEGMENT_ROWS", 3)
        play(Path(folder), batches, asked)


CORRECTED = [
    (FEATURES, "BTCUSDT", [1, 2, 3], [1.0] * 8, "write"),
    (LABELS, "BTCUSDT", [1, 2, 3], [1.0] * 8, "write"),
    (FEATURES, "BTCUSDT", [1, 2, 3], [1.0, 2.0, 1.0, *[1.0] * 5], "write"),
]


def test_a_leak_of_later_versions_would_be_found(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Availability is looked at twice, by the database and by what reads it: both must forget it."""
    before_the_correction = [(1, 0, 70, 0)]
    play(tmp_path / "honest", CORRECTED, before_the_correction)
    known, pieces = Known.at, Catalogue.pieces
    monkeypatch.setattr(
        Known, "at", lambda of, _, start_us, end_us, **how: known(of, LATEST_US, start_us, end_us, **how)
    )
    monkeypatch.setattr(Catalogue, "pieces", lambda *asked: pieces(*asked[:-1], None))
    with pytest.raises(AssertionError):
        play(tmp_path / "leaking", CORRECTED, before_the_correction)


def test_an_oldest_version_that_wins_would_be_found(
    tmp_path: Path, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lexsort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: lexsort((-keys[0], keys[1])))
    with pytest.raises(AssertionError):
        play(tmp_path, CORRECTED, [(0, 0, 70, 0)])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START + 100 * HOUR)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[OfflineStore]:
    opened = OfflineStore.open(tmp_path / "history", "test", clock)
    yield opened
    opened.close()


def fill(store: OfflineStore, **options: Any) -> None:
    hours = list(range(60))
    rows = [rows_of(FEATURES, s, hours, hours) for s in SYMBOLS]
    rows += [rows_of(LABELS, s, hours, hours, 5.0) for s in SYMBOLS]
    store.write(rows, reason="test", **options)


def all_of(store: OfflineStore, as_of: datetime) -> Any:
    return store.get_training_set(View(), LABEL, START, START + 90 * HOUR, as_of)


def test_a_backfill_of_today_never_changes_the_training_set_of_yesterday(
    store: OfflineStore, clock: ManualClock
) -> None:
    fill(store)
    yesterday = clock.now()
    before = all_of(store, yesterday).data_hash()
    clock.advance(86_400.0)
    store.write([rows_of(FEATURES, "BTCUSDT", [5, 6.5], [99, 99])], reason="a corrected bar")
    store.write([rows_of(LABELS, "BTCUSDT", [7], [99], 5.0)], reason="a corrected bar")
    assert all_of(store, yesterday).data_hash() == before
    today = all_of(store, clock.now())
    assert today.data_hash() != before
    assert today.features[5].tolist() == [99.0, 100.0]
    store.seal(clock.now())
    assert all_of(store, yesterday).data_hash() == before


def test_what_is_written_after_a_question_is_available_only_after_it(
    store: OfflineStore, clock: ManualClock
) -> None:
    """The clock stands still: the same instant asked twice must give the same answer."""
    fill(store)
    before = all_of(store, clock.now()).data_hash()
    batch = store.write([rows_of(FEATURES, "BTCUSDT", [5], [99])], reason="at once")
    assert batch.available_from > clock.now()
    assert all_of(store, clock.now()).data_hash() == before
    assert all_of(store, batch.available_from).data_hash() != before


def test_a_repeat_of_a_batch_adds_nothing(store: OfflineStore, clock: ManualClock) -> None:
    fill(store)
    again = rows_of(FEATURES, "BTCUSDT", [0, 1], [0, 1 + 1e-13])
    assert store.write([again], reason="again", same_within=1e-9).n_rows == 0
    assert store.write([again], reason="again").n_rows == 1


def test_reconstructed_rows_are_available_when_they_could_be_known(
    store: OfflineStore, clock: ManualClock
) -> None:
    fill(store, is_reconstructed=True)
    as_of = START + 30 * HOUR
    known = all_of(store, as_of)
    # A label of five hours ahead: that of hour 25 is the last one known.
    assert known.label.max() == 25.0
    assert store.get_features_at(View(), SYMBOLS, as_of).values[:, 0].tolist() == [30.0, 30.0]


def test_what_was_known_cannot_be_declared_anew(store: OfflineStore) -> None:
    fill(store)
    other = rows_of(FEATURES, "BTCUSDT", [3, 4], [3, 5])
    with pytest.raises(DataError, match=r"2024-01-30T04:00:00.* is stored with other values"):
        store.write([other], reason="again", is_reconstructed=True)


def test_the_same_values_may_be_declared_to_have_been_known(store: OfflineStore, clock: ManualClock) -> None:
    fill(store)
    clock.advance(3600.0)
    assert len(all_of(store, START + 30 * HOUR)) == 0
    fill(store, is_reconstructed=True)
    assert len(all_of(store, START + 30 * HOUR)) == 2 * 26
    fill(store, is_reconstructed=True)
    assert len(all_of(store, clock.now())) == 2 * 60


def test_a_row_of_the_future_is_refused_and_nothing_is_written(store: OfflineStore, tmp_path: Path) -> None:
    good, late = rows_of(FEATURES, "BTCUSDT", [1], [1]), rows_of(FEATURES, "ETHUSDT", [101], [1])
    with pytest.raises(DataError, match=r"known from 2024-02-03T05:00:00.* later than now"):
        store.write([good, late], reason="test", marks={"done": "yes"})
    assert store.series() == []
    assert store.mark("done") is None
    assert list((tmp_path / "history").rglob("*.arrow")) == []


def test_markets_do_not_mix(tmp_path: Path, clock: ManualClock) -> None:
    store = OfflineStore.open(tmp_path, "one", clock)
    fill(store)
    store.close()
    clock.advance(-50 * 3600.0)
    other = OfflineStore.open(tmp_path, "another", clock)
    assert other.series() == []
    # The other market's clock is its own.
    batch = other.write([rows_of(FEATURES, "BTCUSDT", [1], [7])], reason="test")
    assert batch.available_from == clock.now()
    other.close()


def test_columns_are_chosen_by_name(store: OfflineStore, clock: ManualClock) -> None:
    fill(store)
    chosen = store.get_training_set(
        View(), LABEL, START, START + 9 * HOUR, clock.now(), symbols=["ETHUSDT"], names=["b"]
    )
    assert chosen.names == ("b",)
    assert chosen.features[:, 0].tolist() == [float(h + 1) for h in range(9)]
    table = chosen.table()
    assert table.column_names == ["symbol", "event_ts", "label", "b"]
    assert table["symbol"].to_pylist() == ["ETHUSDT"] * 9


def test_whole_months_move_into_files_and_nothing_else_changes(
    store: OfflineStore, clock: ManualClock, tmp_path: Path
) -> None:
    fill(store)
    before = all_of(store, clock.now()).data_hash()
    assert store.seal(datetime(2024, 2, 1, tzinfo=UTC)) == 4 * 48
    files = sorted(path.parent.name for path in (tmp_path / "history").rglob("*.arrow"))
    assert files == ["BTCUSDT", "BTCUSDT", "ETHUSDT", "ETHUSDT"]
    assert all_of(store, clock.now()).data_hash() == before
    assert store.seal(datetime(2024, 2, 1, tzinfo=UTC)) == 0
    assert store.check() == 4


NAIVE = datetime(2024, 2, 1)  # noqa: DTZ001 - what must be refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"as_of": NAIVE}, "as_of is 2024-02-01T00:00:00, without a time zone"),
        ({"start": NAIVE}, "start is 2024-02-01T00:00:00, without a time zone"),
        ({"end": NAIVE}, "end is 2024-02-01T00:00:00, without a time zone"),
        ({"as_of": START + 101 * HOUR}, "later than the market's now, 2024-02-03T04:00:00"),
        ({"end": START}, "would end at 2024-01-30 .* and begin at 2024-01-30"),
        ({"label": "forward_return_5"}, "no label forward_return_5. There is: label forward_return_4."),
        ({"names": ["c"]}, "features small of version 0123456789ab has no column 'c'"),
        ({"max_age": -HOUR}, "it must not be negative"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_in_one_sentence(
    store: OfflineStore, change: dict[str, Any], message: str
) -> None:
    fill(store)
    question = {
        "view": View(),
        "label": LABEL,
        "start": START,
        "end": START + HOUR,
        "as_of": START + 9 * HOUR,
    }
    with pytest.raises(UsageError, match=message):
        store.get_training_set(**(question | change))


def test_an_unknown_view_is_refused_and_the_known_are_named(store: OfflineStore) -> None:
    class Other(View):
        version = "ffffffffffff"

    with pytest.raises(UsageError, match=r"no features small of version f+\. Nothing was written yet"):
        store.get_features_at(Other(), SYMBOLS, START)
    fill(store)
    with pytest.raises(UsageError, match="There is: features small of version 0123456789ab"):
        store.get_features_at(Other(), SYMBOLS, START)


def test_a_second_owner_is_refused(store: OfflineStore, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from levibot.clock import SystemClock;"
        "from levibot.stores.offline import OfflineStore;"
        "OfflineStore.open(Path(sys.argv[1]), 'test', SystemClock())"
    )
    done = run_python(script, str(tmp_path / "history"))
    assert done.returncode == 1
    assert "StoreError: The feature history in" in done.stderr
    assert "One process owns it" in done.stderr


def test_a_damaged_segment_is_found(store: OfflineStore, clock: ManualClock, tmp_path: Path) -> None:
    fill(store)
    store.seal(clock.now() + 9000 * HOUR)
    (path, *_) = sorted((tmp_path / "history").rglob("*.arrow"))
    data = path.read_bytes()
    path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    with pytest.raises(StoreError, match="has changed: its SHA-256 is"):
        store.check()
    path.write_bytes(data[:-1])
    with pytest.raises(StoreError, match=f"has {len(data) - 1} bytes, and {len(data)} were written"):
        all_of(store, clock.now())
    path.unlink()
    with pytest.raises(StoreError, match="cannot be opened"):
        all_of(store, clock.now())


def test_files_of_a_batch_that_was_never_noted_are_removed(tmp_path: Path, clock: ManualClock) -> None:
    stray = tmp_path / "segments" / "1" / "BTCUSDT" / "2024-01-9-1-1.arrow"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"half")
    stray.with_name(stray.name + ".part").write_bytes(b"ha")
    OfflineStore.open(tmp_path, "test", clock).close()
    assert list(stray.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("hours", "known_after", "values", "message"),
    [
        ([2, 1], 0.0, [1, 1], "not in the order of their time"),
        ([1, 1], 0.0, [1, 1], "not in the order of their time"),
        ([1, 2], -1.0, [1, 1], "known before their event"),
        ([1, 2], 0.0, [1, math.nan], "a value that is no number"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(
    hours: list[float], known_after: float, values: list[float], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(LABELS, "BTCUSDT", hours, values, known_after)


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from levibot.clock import ManualClock
from levibot.stores import history_writer
from levibot.stores.offline import OfflineStore
from tests.levibot.stores.test_offline import HOUR, START, fill

at, written, whole = int(sys.argv[2]), 0, history_writer.write_segment
def until(*arguments):
    global written
    written += 1
    if written == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments)
history_writer.SEGMENT_ROWS = 3
history_writer.write_segment = until
store = OfflineStore.open(Path(sys.argv[1]), "test", ManualClock(START + 100 * HOUR))
fill(store, marks={"done": "yes"})
"""


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_batch_that_is_killed_midway_is_not_there_and_can_be_repeated(
    tmp_path: Path, clock: ManualClock, at: int
) -> None:
    assert run_python(KILLED, str(tmp_path), str(at)).returncode == -9
    store = OfflineStore.open(tmp_path, "test", clock)
    assert store.series() == []
    assert store.mark("done") is None
    assert list(tmp_path.rglob("*.arrow*")) == []
    fill(store)
    assert len(all_of(store, clock.now())) == 2 * 60
    store.close()
