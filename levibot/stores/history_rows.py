"""What the feature history holds: series of rows, and of each row the versions in the order of knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError, UsageError
from levibot.market.bars import FloatArray, TimeArray
from levibot.stores.segments import MicrosArray, Segment

Kind = Literal["features", "label"]


class ViewOfFeatures(Protocol):
    """The part of a feature view that the history needs."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Series:
    """The features of one version of a view, or one label. columns: the names of its values."""

    kind: Kind
    name: str
    version: str
    columns: tuple[str, ...]

    @classmethod
    def of_view(cls, view: ViewOfFeatures) -> Self:
        return cls("features", view.name, view.version, view.names)

    @classmethod
    def of_label(cls, name: str) -> Self:
        return cls("label", name, "", ("value",))

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" of version {self.version}" if self.version else "")

    def indices(self, names: Sequence[str] | None) -> list[int]:
        """Where the named columns are; all, where none are named. Raises UsageError on an unknown name."""
        if names is None:
            return list(range(len(self.columns)))
        place = {name: k for k, name in enumerate(self.columns)}
        unknown = [name for name in names if name not in place]
        if unknown:
            raise UsageError(f"The {self} has no column {unknown[0]!r}.")
        return [place[name] for name in names]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one symbol to be added to a series.

    event_ts: (N,) datetime64[us] UTC, strictly increasing: for features the close of their bar.
    known_at: (N,) from which instant on each could be known at the earliest.
    values: (N, C), NaN where a feature is missing; a label that is missing is no row.
    Raises DataError where the shapes do not agree, or the instants are not increasing.
    """

    series: Series
    symbol: str
    event_ts: TimeArray
    known_at: TimeArray
    values: FloatArray

    def __post_init__(self) -> None:
        n_rows, n_columns = len(self.event_ts), len(self.series.columns)
        if len(self.known_at) != n_rows or self.values.shape != (n_rows, n_columns):
            raise DataError(
                f"Rows of {self.symbol} for the {self.series}: {n_rows} events, {len(self.known_at)} "
                f"instants of knowledge, values of shape {self.values.shape}; {n_columns} columns are due."
            )
        if np.isnat(self.event_ts).any() or np.isnat(self.known_at).any():
            raise DataError(f"Rows of {self.symbol} for the {self.series} have an instant that is none.")
        if np.any(self.event_ts[1:] <= self.event_ts[:-1]):
            raise DataError(
                f"Rows of {self.symbol} for the {self.series} are not in the order of their time."
            )
        if np.any(self.known_at < self.event_ts):
            raise DataError(f"Rows of {self.symbol} for the {self.series} are known before their event.")
        if self.series.kind == "label" and not np.isfinite(self.values).all():
            raise DataError(f"Rows of {self.symbol} for the {self.series} have a value that is no number.")

    @property
    def event_us(self) -> MicrosArray:
        return as_us(self.event_ts)

    @property
    def known_us(self) -> MicrosArray:
        return as_us(self.known_at)


@dataclass(slots=True)
class Piece:
    """Rows of one symbol that lie together: a segment, or what the database has of it (`values`)."""

    event_us: MicrosArray
    available_us: MicrosArray
    segment: Segment | None = None
    values: FloatArray | None = None

    def copy(
        self,
        rows: npt.NDArray[np.intp],
        to: npt.NDArray[np.intp],
        columns: Sequence[int],
        out: FloatArray,
    ) -> None:
        """out[:, to] = the wanted columns of `rows`. out: (K, N). Whole stretches go without an index."""
        source, target = _stretch(rows), _stretch(to)
        if self.segment is None:
            assert self.values is not None
            out[:, target] = self.values[source][:, columns].T
        elif isinstance(source, slice) and isinstance(target, slice):
            self.segment.read_into(columns, source.start, out[:, target])
        else:
            out[:, target] = self.segment.read(columns)[:, source]


@dataclass(slots=True)
class Known:
    """The rows of one symbol as they were known at one instant: of each event one version.

    event_us: (N,) strictly increasing. piece, row: (N,) where each row lies.
    """

    pieces: Sequence[Piece]
    event_us: MicrosArray
    available_us: MicrosArray
    piece: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]

    @classmethod
    def at(
        cls,
        pieces: Sequence[Piece],
        as_of_us: int,
        start_us: int | None,
        end_us: int | None,
        *,
        earliest: bool = False,
    ) -> Self:
        """What the pieces hold of [start, end) that was available by `as_of`.

        earliest: of each event the version that was available first, instead of the newest.
        """
        nothing = np.empty(0, dtype=np.int64)
        event = np.concatenate([nothing, *(p.event_us for p in pieces)])
        available = np.concatenate([nothing, *(p.available_us for p in pieces)])
        piece = np.repeat(np.arange(len(pieces)), [len(p.event_us) for p in pieces])
        row = np.concatenate([nothing, *(np.arange(len(p.event_us)) for p in pieces)])
        kept = available <= as_of_us
        if start_us is not None:
            kept &= event >= start_us
        if end_us is not None:
            kept &= event < end_us
        if not kept.all():
            event, available, piece, row = event[kept], available[kept], piece[kept], row[kept]
        if np.any(event[1:] <= event[:-1]):
            order = np.lexsort((-available if earliest else available, event))
            newest = order[np.append(event[order][1:] != event[order][:-1], np.True_)]
            event, available, piece, row = event[newest], available[newest], piece[newest], row[newest]
        return cls(pieces, event, available, piece, row)

    def __len__(self) -> int:
        return len(self.event_us)

    def fill(self, chosen: npt.NDArray[np.intp], columns: Sequence[int], out: FloatArray) -> None:
        """out[:, i] = the wanted columns of row chosen[i]. out: (K, len(chosen)), its rows in one stretch."""
        piece, row = self.piece[chosen], self.row[chosen]
        for number, source in enumerate(self.pieces):
            to = np.flatnonzero(piece == number)
            if len(to):
                source.copy(row[to], to, columns, out)

    def values(self, columns: Sequence[int]) -> FloatArray:
        """(N, K) the wanted columns of every row."""
        out = np.empty((len(columns), len(self)))
        self.fill(np.arange(len(self)), columns, out)
        return out.T


def as_us(ts: TimeArray) -> MicrosArray:
    return ts.astype("datetime64[us]").astype(np.int64)


def instant_us(name: str, instant: datetime) -> int:
    """Microseconds since 1970. Raises UsageError on an instant without a time zone."""
    if instant.tzinfo is None:
        raise UsageError(
            f"{name} is {instant.isoformat()}, without a time zone.",
            hint="Give an aware instant, like …+00:00.",
        )
    return round_us(instant)


def round_us(instant: datetime) -> int:
    delta = instant - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _stretch(index: npt.NDArray[np.intp]) -> slice | npt.NDArray[np.intp]:
    first, last = int(index[0]), int(index[-1])
    is_stretch = last - first == len(index) - 1 and bool(np.all(index[1:] > index[:-1]))
    return slice(first, last + 1) if is_stretch else index
