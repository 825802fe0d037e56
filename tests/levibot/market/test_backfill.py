"""Holes between stored bars are found, asked for once, and filled with what the source has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import SourceError, SourceUnavailable
from levibot.market.backfill import Backfill
from levibot.market.bars import FIELDS, Bars, to_datetime64
from levibot.market.intake import Account, Intake
from levibot.market.screening import Screened, screen_bars
from levibot.market.simulator import SimulatedSource
from levibot.stores import holes
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N_BARS = 40
AS_OF = START + N_BARS * HOUR
MARKET_ID = "m"


class Market(SimulatedSource):
    """A simulated market with outages, and rows that are broken; it notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(SYMBOLS, HOUR, seed=5, edge=0.0)
        self.asked: list[tuple[str, int, int]] = []
        self.outage: set[int] = set()
        self.broken: set[int] = set()
        self.error: Exception | None = None

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        self.asked.append((symbol, (start - START) // HOUR, (end - START) // HOUR))
        if self.error is not None:
            raise self.error
        bars = self.bars(symbol, start, end)
        hours = (bars.ts - to_datetime64(START)) // np.timedelta64(HOUR)
        kept = ~np.isin(hours, list(self.outage))
        if not kept.any():
            return Screened.passed(symbol, bars.between(start, start))
        columns = {f: getattr(bars, f)[kept] for f in ("ts", *FIELDS)}
        columns["close"] = np.where(np.isin(hours[kept], list(self.broken)), -1.0, columns["close"])
        return screen_bars(symbol, HOUR, columns, "the market")


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
def intake(tick_store: TickStore) -> Intake:
    return Intake(tick_store, MARKET_ID)


async def store(intake: Intake, market: Market, symbol: str, without: set[int], n: int = N_BARS) -> None:
    bars = market.bars(symbol, START, START + n * HOUR)
    kept = ~np.isin(np.arange(n), list(without))
    held = Bars(symbol, HOUR, *(getattr(bars, f)[kept] for f in ("ts", *FIELDS)))
    await intake.store.write_bars(MARKET_ID, held)


async def assert_whole(intake: Intake, market: Market, symbol: str, without: set[int] | None = None) -> None:
    found = await intake.store.read_bars(MARKET_ID, symbol, HOUR)
    expected = market.bars(symbol, START, AS_OF)
    kept = ~np.isin(np.arange(N_BARS), list(without or ()))
    for name in ("ts", *FIELDS):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[kept])


async def test_exactly_the_missing_ranges_are_asked_for_and_filled(intake: Intake, market: Market) -> None:
    await store(intake, market, "BTCUSDT", without={5, 6, 7, 20})
    await store(intake, market, "ETHUSDT", without={1})
    done = await Backfill(market, SYMBOLS).fill(intake, AS_OF)
    assert sorted(market.asked) == [("BTCUSDT", 5, 8), ("BTCUSDT", 20, 21), ("ETHUSDT", 1, 2)]
    assert done.account == Account(n_new=5)
    assert (done.n_found, done.n_filled, done.n_lacking, done.n_waiting) == (3, 5, 0, 0)
    for symbol in SYMBOLS:
        await assert_whole(intake, market, symbol)


async def test_an_outage_of_the_market_is_asked_for_once_in_a_process(intake: Intake, market: Market) -> None:
    await store(intake, market, "BTCUSDT", without={5, 6, 7}, n=20)
    market.outage = {5, 6}
    backfill = Backfill(market, SYMBOLS)
    done = await backfill.fill(intake, AS_OF)
    assert (done.n_found, done.n_filled, done.n_lacking) == (1, 1, 2)
    market.asked.clear()
    # Bar after bar, nothing is asked again; a new hole is.
    for n in range(21, 25):
        await store(intake, market, "BTCUSDT", without={5, 6}, n=n)
        assert (await backfill.fill(intake, AS_OF)).n_asked == 0
    await store(intake, market, "BTCUSDT", without={5, 6, 30})
    assert (await backfill.fill(intake, AS_OF)).n_filled == 1
    assert market.asked == [("BTCUSDT", 30, 31)]
    await assert_whole(intake, market, "BTCUSDT", without={5, 6})
    # Another process may be luckier.
    market.outage = set()
    assert (await Backfill(market, SYMBOLS).fill(intake, AS_OF)).n_filled == 2


@pytest.mark.parametrize("error", [SourceUnavailable("away"), SourceError("refused")])
async def test_a_hole_that_fails_waits_and_holds_no_other_up(
    intake: Intake, market: Market, error: SourceError
) -> None:
    await store(intake, market, "BTCUSDT", without={5, 20})
    backfill = Backfill(market, SYMBOLS)
    market.error = error
    with pytest.raises(type(error)):
        await backfill.fill(intake, AS_OF)
    market.error = None
    assert backfill.has_waiting
    done = await backfill.fill(intake, AS_OF)
    assert market.asked == [("BTCUSDT", 5, 6), ("BTCUSDT", 20, 21), ("BTCUSDT", 5, 6)]
    assert (done.n_found, done.n_filled, done.n_waiting) == (0, 2, 0)
    await assert_whole(intake, market, "BTCUSDT")


async def test_many_holes_are_filled_a_few_at_a_time(intake: Intake, market: Market) -> None:
    await store(intake, market, "BTCUSDT", without=set(range(1, 39, 2)))
    backfill = Backfill(market, SYMBOLS)
    first = await backfill.fill(intake, AS_OF, max_asked=7)
    assert (first.n_found, first.n_asked, first.n_waiting) == (19, 7, 12)
    rest = [await backfill.fill(intake, AS_OF, max_asked=7) for _ in range(2)]
    assert [done.n_asked for done in rest] == [7, 5]
    await assert_whole(intake, market, "BTCUSDT")


async def test_a_broken_row_in_a_hole_goes_to_quarantine(intake: Intake, market: Market) -> None:
    await store(intake, market, "BTCUSDT", without={5, 6})
    market.broken = {6}
    done = await Backfill(market, SYMBOLS).fill(intake, AS_OF)
    assert done.account == Account(n_new=1, reasons={"not_positive": 1})
    assert done.n_lacking == 1
    await assert_whole(intake, market, "BTCUSDT", without={6})


async def test_a_hole_that_lies_in_the_clocks_future_waits_for_it(intake: Intake, market: Market) -> None:
    await store(intake, market, "BTCUSDT", without={5, 20})
    backfill = Backfill(market, SYMBOLS)
    assert (await backfill.fill(intake, START + 10 * HOUR)).n_filled == 1
    assert (await backfill.fill(intake, START + 20 * HOUR)).n_filled == 0
    assert (await backfill.fill(intake, AS_OF)).n_filled == 1
    await assert_whole(intake, market, "BTCUSDT")


async def test_a_search_tells_holes_and_asks_for_none(intake: Intake, market: Market) -> None:
    await store(intake, market, "BTCUSDT", without={5})
    backfill = Backfill(market, SYMBOLS)
    (hole,) = await backfill.search(intake, AS_OF)
    assert (hole.symbol, hole.start, hole.end) == ("BTCUSDT", START + 5 * HOUR, START + 6 * HOUR)
    assert market.asked == []
    assert not backfill.has_waiting


async def test_a_search_that_is_cut_short_goes_on_where_it_was(
    intake: Intake, market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(intake, market, "BTCUSDT", without=set(range(1, 39, 3)))
    monkeypatch.setattr(holes, "WALK_ROWS", 4)
    backfill = Backfill(market, SYMBOLS)
    searching = aiter(backfill._walk(intake, AS_OF))
    first = [hole for _ in range(3) for hole in await anext(searching)]
    await searching.aclose()
    rest = await backfill.search(intake, AS_OF)
    assert [hole.start for hole in first + rest] == [START + n * HOUR for n in range(1, 39, 3)]
    assert first
    assert rest
