"""Observations beside the bars, each with the instant at which it became available.

A funding rate, a DEX quote, a floor price or a rating is known when it is published, not when the hour that
it speaks of began. An observation never shows in a row that closes before its `available_at`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from levibot.errors import DataError, UnknownSymbol, UsageError
from levibot.market.bars import FloatArray, Panel, TimeArray, to_datetime64
from levibot.market.parquet_file import translated

# Names of the side series that features read.
FUNDING_RATE = "funding_rate"  # share of the notional a FUNDING_PERIOD
DEX_SPREAD = "dex_spread"  # DEX price over the exchange's, less one
NFT_FLOOR = "nft_floor"  # floor price of a collection, > 0, in one currency
NEWS_SENTIMENT = "news_sentiment"  # −1 to 1

FUNDING_PERIOD = timedelta(hours=8)

# How long an observation speaks for the present, by series. A rate or a rating that is overdue is missing.
LONGEST_AGE = {
    FUNDING_RATE: timedelta(hours=16),
    DEX_SPREAD: timedelta(hours=1),
    NFT_FLOOR: timedelta(days=1),
    NEWS_SENTIMENT: timedelta(days=1),
}

# How often a source that works has something new: until then there is nothing newer to be known.
COMES_EVERY = {
    FUNDING_RATE: FUNDING_PERIOD,
    DEX_SPREAD: timedelta(minutes=5),
    NFT_FLOOR: timedelta(hours=1),
    NEWS_SENTIMENT: timedelta(hours=1),
}

SERIES = tuple(LONGEST_AGE)

FUNDING_FOLDER = "funding"


@dataclass(frozen=True, slots=True)
class SideSeries:
    """Observations of one kind for one symbol, or for the whole market (symbol None).

    available_at: (N,) datetime64[us] UTC, increasing; of two at one instant the later one counts. value:
    (N,), NaN for "nothing is known any more". event_at: (N,) when each was true, never going back; None where
    that is when it became available. Age counts from there: what comes late is old when it comes.
    Raises DataError on lengths that differ, instants out of order.
    """

    name: str
    symbol: str | None
    available_at: TimeArray
    value: FloatArray
    event_at: TimeArray | None = None

    def __post_init__(self) -> None:
        for instants in (self.available_at, self.true_at):
            if instants.shape != self.value.shape or self.value.ndim != 1:
                raise DataError(
                    f"The side series {self.name!r} has instants of shape {instants.shape} and values "
                    f"of shape {self.value.shape}: both must be one axis of the same length."
                )
            if np.isnat(instants).any() or np.any(np.diff(instants) < np.timedelta64(0)):
                raise DataError(
                    f"The instants of the side series {self.name!r} are not in order.",
                    hint="Sort the observations by the instant at which they became available.",
                )

    @classmethod
    def of_observations(
        cls, name: str, symbol: str | None, event_at: TimeArray, available_at: TimeArray, value: FloatArray
    ) -> SideSeries:
        """What was known as time went on, of observations in any order. Each array (N,).

        At each instant the newest event counts, and of one event what was said of it last: an older event
        that comes later changes nothing any more.
        """
        order = np.lexsort((event_at, available_at))
        event_at, available_at, value = event_at[order], available_at[order], value[order]
        counts = event_at >= np.maximum.accumulate(event_at) if len(event_at) else np.ones(0, np.bool_)
        return cls(name, symbol, available_at[counts], value[counts], event_at[counts])

    @property
    def true_at(self) -> TimeArray:
        """(N,) when each was true."""
        return self.available_at if self.event_at is None else self.event_at

    def between(self, start: datetime, end: datetime) -> SideSeries:
        """Those that became available in [start, end)."""
        first, last = np.searchsorted(self.available_at, [to_datetime64(start), to_datetime64(end)])
        rows = slice(first, max(first, last))
        event_at = None if self.event_at is None else self.event_at[rows]
        return replace(self, available_at=self.available_at[rows], value=self.value[rows], event_at=event_at)

    def at(self, instants: TimeArray, longest_age: timedelta) -> FloatArray:
        """The last observation available at each instant and not older than `longest_age`, else NaN.

        instants: (T,), such as a panel's closes. What becomes available at the instant itself counts.
        """
        last = np.searchsorted(self.available_at, instants, side="right") - 1
        out = np.full(len(instants), np.nan)
        known = last >= 0
        known[known] = instants[known] - self.true_at[last[known]] <= np.timedelta64(longest_age)
        out[known] = self.value[last[known]]
        return out

    def true_at_of(self, instant: np.datetime64) -> np.datetime64 | None:
        """When the last observation available at that instant was true; None where there is none."""
        last = int(np.searchsorted(self.available_at, instant, side="right")) - 1
        return None if last < 0 else self.true_at[last]


def with_side_series(
    panel: Panel, series: Sequence[SideSeries], longest_age: Mapping[str, timedelta] = LONGEST_AGE
) -> Panel:
    """The panel with what each series said at each row's close, under the series' name.

    A series of the whole market fills every column; a symbol without one is NaN, and a symbol that the panel
    does not have is left out. Raises UsageError on a name without a longest age, and on two series for one
    column.
    """
    extra = dict(panel.extra)
    filled: set[tuple[str, int]] = set()
    closes_at = panel.closes_at
    for one in series:
        if one.name not in longest_age:
            raise UsageError(
                f"The side series {one.name!r} has no longest age.",
                hint=f"Known series: {', '.join(sorted(longest_age))}.",
            )
        columns = [c for c, symbol in enumerate(panel.symbols) if one.symbol in (None, symbol)]
        twice = [panel.symbols[column] for column in columns if (one.name, column) in filled]
        if twice:
            raise UsageError(f"Two side series {one.name!r} are given for {twice[0]}.")
        if one.name not in {name for name, _ in filled}:
            # A series given anew takes the place of what the panel had under its name.
            extra[one.name] = np.full(panel.close.shape, np.nan, order="F")
        filled.update((one.name, column) for column in columns)
        extra[one.name][:, columns] = one.at(closes_at, longest_age[one.name])[:, None]
    return replace(panel, extra=extra)


def read_funding(folder: Path, symbols: Sequence[str]) -> list[SideSeries]:
    """The recorded funding rates of `<folder>/funding/SYMBOL.parquet`, one series a symbol.

    Columns: ts (timestamp; without a zone it is UTC), the instant of the payment and of publication, and
    funding_rate. Raises UsageError when there is no such folder, UnknownSymbol when a symbol has no file, and
    DataError on a file that cannot be read.
    """
    rates = folder / FUNDING_FOLDER
    if not rates.is_dir():
        raise UsageError(
            f"The market folder {folder} holds no funding rates: there is no {rates}.",
            hint="It has one file a symbol, like funding/BTCUSDT.parquet.",
        )
    return [_read_rates(rates / f"{symbol}.parquet", symbol) for symbol in symbols]


def _read_rates(path: Path, symbol: str) -> SideSeries:
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.parquet"))) or "nothing"
        raise UnknownSymbol(
            f"The recorded market has no file {path}.",
            hint=f"Set LEVIBOT_SYMBOLS (or --symbols) to what is there: {there}.",
        )
    with translated(path), pq.ParquetFile(path) as file:
        missing = sorted({"ts", "funding_rate"} - set(file.schema_arrow.names))
        if missing:
            raise DataError(f"The file {path} has no column {', '.join(missing)}.")
        table = file.read(columns=["ts", "funding_rate"])
    available_at = table["ts"].to_numpy().astype("datetime64[us]")
    return SideSeries(FUNDING_RATE, symbol, available_at, table["funding_rate"].to_numpy().astype(np.float64))
