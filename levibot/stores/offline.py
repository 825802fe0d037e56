"""The feature history: every feature row and label that was ever known, and since when it was known.

A value counts at an instant only if it was available by then. Rows are added and never changed: what a
correction or a backfill finds is a new version, available from the moment it is written. So what the history
says as of an instant stays what it is, whatever is written later.

A DuckDB file holds the catalogue and the newest rows; older ones lie in immutable segments beside it.
DuckDB locks its file: one process owns a history, and everybody else asks it or reads an export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

import duckdb

from levibot.clock import Clock
from levibot.errors import StoreError, UsageError
from levibot.stores.event import instant
from levibot.stores.features_at import FeaturesAt
from levibot.stores.history_catalogue import Catalogue
from levibot.stores.history_rows import Known, Rows, Series, ViewOfFeatures, instant_us, round_us
from levibot.stores.history_writer import HistoryWriter
from levibot.stores.query_profile import PROFILE, QueryProfile
from levibot.stores.training_set import TrainingSet, assemble

# Beside the jobs that learn: the catalogue and some months of newest rows are small.
LIMITS: dict[str, str | bool | int | float | list[str]] = {"threads": 2, "memory_limit": "1GB"}


@dataclass(frozen=True, slots=True)
class Batch:
    """What one write added. available_from: of its rows, unless they were declared to be reconstructed."""

    available_from: datetime
    n_rows: int


class OfflineStore:
    """The history of one market. For one thread at a time.

    State: the database connection, and the newest instant that was asked for: what is written from then on is
    available only later, so that the same question keeps its answer.
    """

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        folder: Path,
        market_id: str,
        clock: Clock,
        profile: QueryProfile = PROFILE,
    ) -> None:
        self._db = db
        self._folder = folder
        self._clock = clock
        self._profile = profile
        self._catalogue = Catalogue(db, folder, market_id)
        self._newest_asked_us = 0
        self._n_batches = 0

    @classmethod
    def open(cls, folder: Path, market_id: str, clock: Clock) -> Self:
        """The history in a folder, made where there is none. What a killed process left half done is removed.

        clock: the market's. Raises StoreError when another process holds it, or it cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            db = duckdb.connect(str(folder / "history.duckdb"), config=LIMITS)
        except (OSError, duckdb.Error) as exc:
            raise StoreError(
                f"The feature history in {folder} cannot be opened: {exc}.",
                hint="One process owns it; others ask that one, or read an export.",
            ) from exc
        try:
            store = cls(db, folder, market_id, clock)
            store._catalogue.prepare()
            store._drop_strays()
        except BaseException:
            db.close()
            raise
        return store

    @classmethod
    def open_read_only(cls, folder: Path, market_id: str, clock: Clock) -> Self:
        """A history that nobody writes to any more, for any number of processes at once.

        Raises StoreError when there is none, or a process writes to it.
        """
        try:
            db = duckdb.connect(str(folder / "history.duckdb"), read_only=True, config=LIMITS)
        except duckdb.Error as exc:
            raise StoreError(f"The feature history in {folder} cannot be read: {exc}.") from exc
        return cls(db, folder, market_id, clock)

    def close(self) -> None:
        self._db.close()

    def now(self) -> datetime:
        """The market's now, or the instant of the newest rows, if that is later: as of it all is known.

        Steps that are written within one tick of the clock lie a microsecond apart, ahead of it.
        """
        with self._asking("now"):
            return max(self._clock.now(), instant(self._catalogue.newest_batch()[1]))

    def series(self) -> list[Series]:
        """What the history has rows of."""
        with self._asking("series"):
            return self._catalogue.all()

    def symbols(self, series: Series) -> tuple[str, ...]:
        """The symbols of a series. Raises UsageError where it was never written."""
        with self._asking("symbols"):
            return self._catalogue.symbols(self._catalogue.need(series))

    def mark(self, name: str) -> str | None:
        """What a writer noted with its last batch."""
        with self._asking("mark"):
            return self._catalogue.mark(name)

    def write(
        self,
        rows: Sequence[Rows],
        *,
        reason: str,
        is_reconstructed: bool = False,
        marks: Mapping[str, str] | None = None,
        same_within: float = 0.0,
    ) -> Batch:
        """Add rows, all or none; returns once they are on the disk. Marks are noted in the same step.

        The rows are available from now on: their event may lie years back, but nobody could use them earlier.
        is_reconstructed: they are declared to have been available as soon as they could be known, at their
            `known_at`; that is recorded, and refused for a row whose first version says something else.
        same_within: relative; a row that says what the newest version of it says already is not added.
        Raises DataError when a row is not known yet, or reconstructed rows contradict what is stored.
        """
        with self._asking("write"), self._batch() as (writer, batch_id, now_us):
            n_rows = sum(
                writer.add(some, now_us, same_within=same_within, is_reconstructed=is_reconstructed)
                for some in rows
            )
            if n_rows:
                self._catalogue.add_batch(
                    batch_id, now_us, is_reconstructed=is_reconstructed, reason=reason, n_rows=n_rows
                )
            for name, value in (marks or {}).items():
                self._catalogue.set_mark(name, value)
        return Batch(instant(now_us), n_rows)

    def seal(self, before: datetime) -> int:
        """Move rows of months that ended by then from the database to segments; returns how many.

        Nothing that can be asked changes.
        """
        before_us = instant_us("before", before)
        with self._asking("seal"), self._batch() as (writer, _, _):
            moved = sum(writer.seal(series, before_us) for series in self._catalogue.all())
        if moved:
            with self._asking("checkpoint"):
                self._db.execute("CHECKPOINT")
        return moved

    def get_features_at(
        self,
        view: ViewOfFeatures,
        entities: Sequence[str],
        as_of: datetime,
        names: Sequence[str] | None = None,
    ) -> FeaturesAt:
        """The newest feature row of each symbol that was known at `as_of`.

        names: of features; all by default.
        Raises UsageError on an instant without a time zone or in the future, and an unknown view or feature.
        """
        series = Series.of_view(view)
        known = self.read(series, entities, as_of=as_of)
        return FeaturesAt.of(series, names, known, as_of)

    def get_training_set(
        self,
        view: ViewOfFeatures,
        label: str,
        start: datetime,
        end: datetime,
        as_of: datetime,
        *,
        symbols: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        max_age: timedelta = timedelta(0),
    ) -> TrainingSet:
        """Features and labels of the events in [start, end), in the versions that were known at `as_of`.

        A label meets the newest feature row at or before its own event, at most `max_age` old; without such a
        row it is left out. symbols, names: all by default.
        Raises UsageError on an instant without a time zone, an `as_of` in the future, an empty span, and an
        unknown view, label or feature.
        """
        start_us, end_us = instant_us("start", start), instant_us("end", end)
        if start_us >= end_us:
            raise UsageError(f"The training set would end at {end} and begin at {start}.")
        if max_age < timedelta(0):
            raise UsageError(f"max_age is {max_age}: it must not be negative.")
        series, of_label = Series.of_view(view), Series.of_label(label)
        with self._asking("training set"):
            label_id = self._catalogue.need(of_label)
            wanted = self._catalogue.symbols(label_id) if symbols is None else tuple(symbols)
        labels = self.read(of_label, wanted, start=start, end=end, as_of=as_of)
        features = self.read(series, wanted, start=start - max_age, end=end, as_of=as_of)
        with self._asking("training set"):
            return assemble(series, label, names, features, labels, as_of=as_of, max_age=max_age)

    def read(
        self,
        series: Series,
        symbols: Sequence[str],
        *,
        as_of: datetime,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> dict[str, Known]:
        """The rows of each symbol with events in [start, end) as they were known at `as_of`.

        Raises UsageError as `get_training_set` does.
        """
        as_of_us = instant_us("as_of", as_of)
        now = self._clock.now()
        if as_of > now and as_of_us > self._catalogue.newest_batch()[1]:
            raise UsageError(
                f"as_of is {as_of.isoformat()}, later than the market's now, {now.isoformat()}.",
                hint="What will be known then is not known yet.",
            )
        start_us = None if start is None else instant_us("start", start)
        end_us = None if end is None else instant_us("end", end)
        with self._asking("read"):
            series_id = self._catalogue.need(series)
            self._newest_asked_us = max(self._newest_asked_us, as_of_us)
            pieces = self._catalogue.pieces(series_id, symbols, start_us, end_us, as_of_us)
            return {symbol: Known.at(of, as_of_us, start_us, end_us) for symbol, of in pieces.items()}

    def check(self) -> int:
        """Read every segment again and compare its checksum; returns how many. Raises StoreError."""
        with self._asking("check"):
            checksums = self._catalogue.checksums()
        for segment, sha256 in checksums:
            segment.check(sha256)
        return len(checksums)

    def _drop_strays(self) -> None:
        """Files that a killed process wrote for a batch that was never noted."""
        listed = self._catalogue.paths()
        for path in (self._folder / "segments").rglob("*.arrow*"):
            if path.relative_to(self._folder).as_posix() not in listed:
                path.unlink()

    @contextmanager
    def _batch(self) -> Iterator[tuple[HistoryWriter, int, int]]:
        """A transaction: its writer, its number, and the instant from which its rows are available."""
        last_id, last_us = self._catalogue.newest_batch()
        now_us = max(round_us(self._clock.now()), last_us + 1, self._newest_asked_us + 1)
        # A seal is no batch, and may come twice after the same one: its files must not meet.
        self._n_batches += 1
        writer = HistoryWriter(self._catalogue, self._folder, f"{last_id + 1}-{self._n_batches}")
        self._db.begin()
        try:
            yield writer, last_id + 1, now_us
            self._db.commit()
        except BaseException:
            # A commit that failed, as on a full disk, has ended its transaction: the error is its own.
            with suppress(duckdb.TransactionException):
                self._db.rollback()
            for path in writer.written:
                path.unlink(missing_ok=True)
            raise

    @contextmanager
    def _asking(self, query: str) -> Iterator[None]:
        with self._profile.measure("duckdb", query):
            try:
                yield
            except (duckdb.Error, OSError) as exc:
                raise StoreError(f"The feature history in {self._folder} failed: {exc}.") from exc
