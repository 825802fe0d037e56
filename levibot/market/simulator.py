"""A simulated market without end: the bars that demos, tests and the law of no edge run on."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from levibot.errors import UsageError
from levibot.market.bars import FIELDS, Bars
from levibot.market.price_process import (
    CHUNK_BARS,
    MARKET_START,
    MarketChunk,
    draw_market,
    draw_symbol,
    first_market_state,
    first_symbol_state,
)
from levibot.market.screening import Screened
from levibot.market.side_series import SideSeries
from levibot.market.validation import check_request, empty_bars
from levibot.settings import SourceName

# Beyond it a drifting log price could leave the floats.
MARKET_HORIZON = datetime(2100, 1, 1, tzinfo=UTC)
CACHED_CHUNKS = 512  # About 100 MB of bars.


class SimulatedSource:
    """A market from 2020-01-01 UTC that goes on; seed, edge, interval and symbol fix every bar.

    Neither the order of the calls, nor their ranges, nor the other symbols change a bar. Bars are drawn in
    chunks from the first one on, and the newest CACHED_CHUNKS are kept. Safe to call from several threads.
    Raises UsageError when the edge is not in [0, 1), or the first bar is not on the interval's grid.
    """

    def __init__(self, symbols: tuple[str, ...], interval: timedelta, seed: int, edge: float) -> None:
        if not 0.0 <= edge < 1.0:
            raise UsageError(
                f"The edge is {edge:g}, not in [0, 1).", hint="Set LEVIBOT_EDGE to 0 for no edge."
            )
        if interval <= timedelta(0) or (MARKET_START - datetime(1970, 1, 1, tzinfo=UTC)) % interval:
            raise UsageError(
                f"A market cannot be simulated in bars of {interval}.", hint="Take 1h, for example."
            )
        self._symbols = symbols
        self._interval = interval
        self._seed = seed
        self._edge = edge
        self._lock = threading.Lock()
        self._market_states = [first_market_state(seed)]
        self._symbol_states = {symbol: [first_symbol_state(seed, symbol)] for symbol in symbols}
        self._market_chunks: OrderedDict[int, MarketChunk] = OrderedDict()
        self._chunks: OrderedDict[tuple[str, int], Bars] = OrderedDict()

    @property
    def name(self) -> SourceName:
        return "simulated"

    @property
    def interval(self) -> timedelta:
        return self._interval

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._symbols

    def extent(self) -> tuple[datetime, datetime | None]:
        """From 2020-01-01, without end."""
        return MARKET_START, None

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        """The bars that open in [start, end). Raises UnknownSymbol, and UsageError past MARKET_HORIZON."""
        check_request(symbol, self._symbols, start, end, "The simulated market")
        if end > MARKET_HORIZON:
            raise UsageError(
                f"The simulated market is asked up to {end.isoformat()}, past {MARKET_HORIZON:%Y-%m-%d}.",
                hint="It has no last bar: ask for a range.",
            )
        # Negated floor division rounds up: a bar opens in the range when its index is not below either end.
        first = max(0, -((MARKET_START - start) // self._interval))
        stop = -((MARKET_START - end) // self._interval)
        if first >= stop:
            return empty_bars(symbol, self._interval)
        with self._lock:
            parts = [self._chunk(symbol, c) for c in range(first // CHUNK_BARS, (stop - 1) // CHUNK_BARS + 1)]
        return _joined(parts).between(start, end)

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        """As `bars`: a drawn bar is always sound."""
        return Screened.passed(symbol, self.bars(symbol, start, end))

    def side_series(self, names: Sequence[str], start: datetime, end: datetime) -> list[SideSeries]:  # noqa: ARG002
        """None: what is drawn here pays no funding, and the world outside knows nothing of it."""
        return []

    def _chunk(self, symbol: str, chunk: int) -> Bars:
        if (symbol, chunk) not in self._chunks:
            states = self._symbol_states[symbol]
            for missing in range(min(chunk, len(states) - 1), chunk + 1):
                bars, after = draw_symbol(
                    self._seed,
                    self._interval,
                    self._edge,
                    symbol,
                    missing,
                    states[missing],
                    self._market_chunk(missing),
                )
                if len(states) == missing + 1:
                    states.append(after)
                self._chunks[symbol, missing] = bars
                if len(self._chunks) > CACHED_CHUNKS:
                    self._chunks.popitem(last=False)
        return self._chunks[symbol, chunk]

    def _market_chunk(self, chunk: int) -> MarketChunk:
        if chunk not in self._market_chunks:
            drawn, after = draw_market(self._seed, self._interval, chunk, self._market_states[chunk])
            if len(self._market_states) == chunk + 1:
                self._market_states.append(after)
            self._market_chunks[chunk] = drawn
            if len(self._market_chunks) > CACHED_CHUNKS:
                self._market_chunks.popitem(last=False)
        return self._market_chunks[chunk]


def _joined(parts: list[Bars]) -> Bars:
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("ts", *FIELDS)}
    for values in columns.values():
        values.flags.writeable = False
    return Bars(parts[0].symbol, parts[0].interval, **columns)
