"""Where bars come from: one protocol, three markets behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from levibot.clock import SystemClock
from levibot.errors import SettingsError
from levibot.market.bars import Bars
from levibot.market.exchange import ExchangeSource
from levibot.market.parquet import ParquetSource
from levibot.market.screening import Screened
from levibot.market.side_series import SideSeries
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings, SourceName


class Source(Protocol):
    """A market that gives finished bars. The calls block: actors make them in a thread.

    A source behind a network guards its calls itself: what it raises is worth another try at the next bar.
    """

    @property
    def name(self) -> SourceName:
        """What kind of market this is; every answer that rests on its bars says so."""
        ...

    @property
    def interval(self) -> timedelta:
        """From a bar's open to its close."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that `bars` knows."""
        ...

    def extent(self) -> tuple[datetime, datetime | None]:
        """The first bar's open and the last bar's close over all symbols; None when the market goes on.

        Raises SourceUnavailable, SourceError and DataError.
        """
        ...

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        """The finished bars that open in [start, end), oldest first; none is a right answer.

        start, end: aware. The same range gives the same bars again; the arrays are read-only.
        Raises UnknownSymbol, UsageError (a naive instant), SourceUnavailable, SourceError, and DataError for
        the first row that is no bar.
        """
        ...

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        """As `bars`, for the ingest: rows that are no bars stand beside the bars, with the reason.

        Raises DataError only for what makes every row useless: a missing column, one of another type.
        """
        ...

    def side_series(self, names: Sequence[str], start: datetime, end: datetime) -> list[SideSeries]:
        """What the market itself tells beside its bars and became available in [start, end).

        names: those of `levibot/market/side_series.py`; one that the market does not tell is not in the
        answer, nor is a symbol without it. Raises SourceUnavailable, SourceError and DataError.
        """
        ...


def open_source(settings: Settings) -> Source:
    """The market that the settings name.

    Raises UsageError when it cannot be opened (no such folder, file, exchange) and SettingsError.
    """
    match settings.source:
        case "simulated":
            return SimulatedSource(settings.symbols, settings.interval, settings.seed, settings.edge)
        case "parquet":
            if settings.market is None:
                raise SettingsError("Source parquet needs the market's folder.", hint="Set LEVIBOT_MARKET.")
            return ParquetSource(settings.market, settings.symbols, settings.interval)
        case "exchange":
            return ExchangeSource(
                settings.exchange,
                settings.symbols,
                settings.interval,
                SystemClock(),
                base_url=settings.exchange_url,
            )
