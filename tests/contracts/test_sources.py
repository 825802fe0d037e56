"""What every market source keeps, whatever is behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levibot.clock import ManualClock
from levibot.errors import UnknownSymbol, UsageError
from levibot.market.bars import FIELDS, Bars, to_datetime, to_datetime64
from levibot.market.exchange import ExchangeSource
from levibot.market.parquet import ParquetSource
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.market.sources import Source, open_source
from levibot.market.validation import check_bars
from levibot.settings import Settings
from tests.fakes.exchange_server import FakeExchange

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N_BARS = 300
LAST_CLOSE = MARKET_START + N_BARS * HOUR

Make = Callable[[], Source]


def simulated() -> SimulatedSource:
    return SimulatedSource(SYMBOLS, HOUR, seed=11, edge=0.03)


def market(n_bars: int) -> dict[str, Bars]:
    """The first bars of a simulated market, with a gap of three bars in each symbol."""
    bars = {s: simulated().bars(s, MARKET_START, MARKET_START + n_bars * HOUR) for s in SYMBOLS}
    keep = {s: np.delete(np.arange(len(b)), [40, 41, 42]) for s, b in bars.items()}
    return {s: Bars(s, HOUR, *(getattr(b, f)[keep[s]] for f in ("ts", *FIELDS))) for s, b in bars.items()}


class SourceContract:
    """Inherited by one class a source, which gives `make`: a new instance of the same market at each call."""

    finished_by: datetime = LAST_CLOSE

    @pytest.fixture
    def source(self, make: Make) -> Source:
        return make()

    def test_a_range_is_half_open(self, source: Source) -> None:
        start, end = MARKET_START + 50 * HOUR, MARKET_START + 60 * HOUR
        bars = source.bars("BTCUSDT", start, end)
        assert (bars.ts[0], bars.ts[-1]) == (to_datetime64(start), to_datetime64(end - HOUR))

    def test_an_instant_between_bars_takes_the_next_bar(self, source: Source) -> None:
        minute = timedelta(minutes=1)
        bars = source.bars("BTCUSDT", MARKET_START + 50 * HOUR + minute, MARKET_START + 52 * HOUR + minute)
        assert bars.ts.tolist() == [
            to_datetime64(MARKET_START + 51 * HOUR).item(),
            to_datetime64(MARKET_START + 52 * HOUR).item(),
        ]

    def test_neighbouring_ranges_join_without_gap_or_overlap(self, source: Source) -> None:
        cut = MARKET_START + 77 * HOUR
        whole = source.bars("ETHUSDT", MARKET_START, LAST_CLOSE)
        parts = [source.bars("ETHUSDT", MARKET_START, cut), source.bars("ETHUSDT", cut, LAST_CLOSE)]
        for field in ("ts", *FIELDS):
            assert np.array_equal(np.concatenate([getattr(p, field) for p in parts]), getattr(whole, field))

    def test_a_new_instance_gives_the_same_bars_in_any_order(self, make: Make) -> None:
        forward, backward = make(), make()
        ranges = [(MARKET_START + i * 60 * HOUR, MARKET_START + (i * 60 + 90) * HOUR) for i in range(3)]
        read = {(s, r): forward.bars(s, *r) for s in SYMBOLS for r in ranges}
        for (symbol, span), bars in reversed(read.items()):
            again = backward.bars(symbol, *span)
            assert all(np.array_equal(getattr(bars, f), getattr(again, f)) for f in ("ts", *FIELDS))

    def test_bars_fulfil_the_schema(self, source: Source) -> None:
        bars = source.bars("BTCUSDT", MARKET_START, LAST_CLOSE)
        check_bars("BTCUSDT", HOUR, {f: getattr(bars, f) for f in ("ts", *FIELDS)}, "the source")
        assert (bars.symbol, bars.interval) == ("BTCUSDT", source.interval)

    def test_the_ingest_reads_the_same_bars(self, source: Source) -> None:
        start, end = MARKET_START + 30 * HOUR, MARKET_START + 60 * HOUR
        rows, bars = source.read("BTCUSDT", start, end), source.bars("BTCUSDT", start, end)
        assert all(np.array_equal(getattr(rows.sound, f), getattr(bars, f)) for f in ("ts", *FIELDS))
        assert (len(rows.rejects), len(rows.repeated)) == (0, 0)
        assert len(source.read("BTCUSDT", MARKET_START - 9 * HOUR, MARKET_START).sound) == 0

    def test_no_bar_is_unfinished(self, source: Source) -> None:
        _, end = source.extent()
        bars = source.bars("BTCUSDT", MARKET_START, LAST_CLOSE + 5 * HOUR)
        limit = end or self.finished_by
        assert to_datetime(bars.ts[-1]) + HOUR == limit

    def test_the_extent_begins_at_the_first_bar(self, source: Source) -> None:
        first, _ = source.extent()
        opens = [source.bars(s, MARKET_START - 9 * HOUR, LAST_CLOSE).ts[0] for s in source.symbols]
        assert to_datetime(min(opens)) == first

    def test_a_range_without_bars_is_empty(self, source: Source) -> None:
        assert len(source.bars("BTCUSDT", MARKET_START - 9 * HOUR, MARKET_START)) == 0
        assert len(source.bars("BTCUSDT", MARKET_START + 9 * HOUR, MARKET_START + 9 * HOUR)) == 0
        assert len(source.bars("BTCUSDT", MARKET_START + 9 * HOUR, MARKET_START)) == 0

    def test_an_unknown_symbol_is_named(self, source: Source) -> None:
        with pytest.raises(UnknownSymbol, match="'DOGEUSDT'"):
            source.bars("DOGEUSDT", MARKET_START, LAST_CLOSE)

    def test_an_instant_without_a_zone_is_refused(self, source: Source) -> None:
        with pytest.raises(UsageError, match="no time zone"):
            source.bars("BTCUSDT", MARKET_START.replace(tzinfo=None), LAST_CLOSE)

    def test_callers_cannot_change_the_market(self, source: Source) -> None:
        bars = source.bars("BTCUSDT", MARKET_START, LAST_CLOSE)
        assert not any(getattr(bars, f).flags.writeable for f in ("ts", *FIELDS))


class TestSimulated(SourceContract):
    # A market without end has finished all that is asked of it; the feed asks up to its clock.
    finished_by = LAST_CLOSE + 5 * HOUR

    @pytest.fixture
    def make(self) -> Make:
        return simulated

    def test_it_says_what_it_is(self, source: Source) -> None:
        assert source.name == "simulated"


class TestParquet(SourceContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        folder = tmp_path / "bars_1h"
        folder.mkdir()
        for symbol, bars in market(N_BARS).items():
            columns = {f: getattr(bars, f) for f in ("ts", *FIELDS)}
            pq.write_table(pa.table(columns), folder / f"{symbol}.parquet")
        return lambda: ParquetSource(tmp_path, SYMBOLS, HOUR)

    def test_it_says_what_it_is(self, source: Source) -> None:
        assert source.name == "parquet"


class TestExchange(SourceContract):
    @pytest.fixture
    def make(self) -> Iterator[Make]:
        clock = ManualClock(LAST_CLOSE + timedelta(minutes=30))
        opened: list[ExchangeSource] = []
        # The exchange serves the bar that is still open as its last row.
        with FakeExchange(market(N_BARS + 1)) as server:

            def make() -> Source:
                opened.append(ExchangeSource("binance", SYMBOLS, HOUR, clock, base_url=server.url))
                return opened[-1]

            yield make
            for source in opened:
                source.close()

    def test_it_says_what_it_is(self, source: Source) -> None:
        assert source.name == "exchange"


def test_settings_open_the_source_they_name(tmp_path: Path) -> None:
    for symbol, bars in market(50).items():
        columns = {f: getattr(bars, f) for f in ("ts", *FIELDS)}
        pq.write_table(pa.table(columns), tmp_path / f"{symbol}.parquet")
    kinds = [
        open_source(Settings.load(source="simulated", symbols=SYMBOLS)),
        open_source(Settings.load(source="parquet", symbols=SYMBOLS, market=tmp_path)),
        open_source(Settings.load(source="exchange", symbols=SYMBOLS)),
    ]
    assert [source.name for source in kinds] == ["simulated", "parquet", "exchange"]
    assert all(source.symbols == SYMBOLS and source.interval == HOUR for source in kinds)
