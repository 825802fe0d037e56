"""The way of bars into the tick store: a simulated market with late and early ends, on real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError, SourceUnavailable
from levibot.market.bars import FIELDS, Bars
from levibot.market.ingest import Ingest, Ingested
from levibot.market.intake import Account, Intake
from levibot.market.price_process import MARKET_START
from levibot.market.screening import Screened
from levibot.market.simulator import SimulatedSource
from levibot.settings import SourceName
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
US = timedelta(microseconds=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
MARKET_ID = "simulated:test"


class Exchange:
    """A simulated market in which symbols are listed late, or go away; it can fail at a given read.

    It gives what it is asked for, finished or not: to leave out what is not is the ingest's job.
    """

    def __init__(
        self,
        *,
        listed: dict[str, datetime] | None = None,
        gone: dict[str, datetime] | None = None,
        last: datetime | None = None,
    ) -> None:
        self._market = SimulatedSource(SYMBOLS, HOUR, seed=5, edge=0.0)
        self._listed, self._gone, self._last = listed or {}, gone or {}, last
        self.asked: list[tuple[str, datetime, datetime]] = []
        self.fails_at: int | None = None

    @property
    def name(self) -> SourceName:
        return "simulated"

    @property
    def interval(self) -> timedelta:
        return HOUR

    @property
    def symbols(self) -> tuple[str, ...]:
        return SYMBOLS

    def extent(self) -> tuple[datetime, datetime | None]:
        return MARKET_START, self._last

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        return self.read(symbol, start, end).sound

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        self.asked.append((symbol, start, end))
        if self.fails_at == len(self.asked):
            raise SourceUnavailable("The exchange does not answer.")
        bars = self._market.bars(symbol, start, end)
        return Screened.passed(symbol, bars.between(self._listed.get(symbol), self._gone.get(symbol)))


def ingest(source: Exchange, store: TickStore, symbols: Sequence[str] = SYMBOLS) -> Ingest:
    return Ingest(source, Intake(store, MARKET_ID), symbols)


async def stored(store: TickStore, symbol: str) -> Bars:
    return await store.read_bars(MARKET_ID, symbol, HOUR)


def assert_equal(found: Bars, expected: Bars) -> None:
    for name in ("ts", *FIELDS):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


async def assert_whole(store: TickStore, source: Exchange, as_of: datetime) -> None:
    """Exactly the bars that are finished at `as_of`, for every symbol."""
    for symbol in SYMBOLS:
        expected = source.bars(symbol, MARKET_START, as_of).closed_by(as_of)
        assert_equal(await stored(store, symbol), expected)


async def test_everything_that_is_finished_is_stored_and_nothing_twice(tick_store: TickStore) -> None:
    source = Exchange()
    seen: list[tuple[str, int]] = []
    as_of = MARKET_START + 100 * HOUR
    done = await ingest(source, tick_store).up_to(as_of, progress=lambda *step: seen.append(step))
    assert done == Ingested(Account(n_new=300), newest_close=as_of)
    assert seen == [(symbol, 100) for symbol in SYMBOLS]
    await assert_whole(tick_store, source, as_of)
    source.asked.clear()
    assert await ingest(source, tick_store).up_to(as_of) == Ingested(Account(), as_of)
    assert source.asked == []


async def test_a_bar_that_is_not_finished_is_never_stored(tick_store: TickStore) -> None:
    source, started = Exchange(), MARKET_START + 10 * HOUR
    rng = np.random.default_rng(4)
    offsets = [timedelta(seconds=float(s)) for s in np.sort(rng.uniform(0.0, 10 * 3600.0, 25))]
    edges = [n * HOUR + nudge for n in range(1, 10) for nudge in (-US, timedelta(0), US)]
    work = ingest(source, tick_store)
    for offset in sorted([*offsets, *edges]):
        as_of = started + offset
        done = await work.up_to(as_of)
        finished = MARKET_START + (as_of - MARKET_START) // HOUR * HOUR
        assert done.newest_close == finished
        last = await tick_store.last_ts(MARKET_ID, SYMBOLS, HOUR)
        assert set(last.values()) == {finished - HOUR}
    await assert_whole(tick_store, source, started + max(*offsets, *edges))


async def test_before_the_first_bar_is_finished_there_is_nothing(tick_store: TickStore) -> None:
    work = ingest(Exchange(), tick_store)
    for as_of in (MARKET_START - 100 * HOUR, MARKET_START, MARKET_START + HOUR - US):
        assert await work.up_to(as_of) == Ingested(Account(), None)
    assert (await work.up_to(MARKET_START + HOUR)).n_new == 3


async def test_a_clock_that_runs_back_changes_nothing(tick_store: TickStore) -> None:
    source = Exchange()
    work = ingest(source, tick_store)
    late = MARKET_START + 50 * HOUR
    await work.up_to(late)
    early = MARKET_START + 10 * HOUR
    # The later bars stay; what counts as finished is what the clock says.
    assert await work.up_to(early) == Ingested(Account(), early)
    await assert_whole(tick_store, source, late)


async def test_start_leaves_out_what_opens_earlier(tick_store: TickStore) -> None:
    source, as_of = Exchange(), MARKET_START + 50 * HOUR
    start = MARKET_START + 20 * HOUR + timedelta(minutes=20)
    assert (await ingest(source, tick_store).up_to(as_of, start)).n_new == 3 * 29
    assert_equal(await stored(tick_store, "BTCUSDT"), source.bars("BTCUSDT", start, as_of))
    assert (await ingest(source, tick_store).up_to(as_of, start)).n_new == 0


async def test_history_before_the_oldest_bar_is_filled_in_when_the_start_moves_back(
    tick_store: TickStore,
) -> None:
    listing = MARKET_START + 20 * HOUR
    source, as_of = Exchange(listed={"SOLUSDT": listing}), MARKET_START + 50 * HOUR
    await ingest(source, tick_store).up_to(as_of, MARKET_START + 30 * HOUR)
    seen: list[tuple[str, int]] = []
    work = ingest(source, tick_store)
    done = await work.up_to(as_of, MARKET_START + 10 * HOUR, lambda *step: seen.append(step))
    assert done == Ingested(Account(n_new=50), newest_close=as_of)
    assert seen == [("BTCUSDT", 20), ("ETHUSDT", 20), ("SOLUSDT", 10)]
    assert (await work.up_to(as_of, MARKET_START)).n_new == 20
    await assert_whole(tick_store, source, as_of)
    # There is nothing before a listing, and it is looked for once.
    source.asked.clear()
    assert await work.up_to(as_of, MARKET_START) == Ingested(Account(), as_of)
    assert source.asked == []
    assert (await ingest(source, tick_store).up_to(as_of, MARKET_START)).n_new == 0
    assert source.asked == [("SOLUSDT", MARKET_START, listing)]


async def test_history_is_filled_in_without_a_hole_when_the_clock_is_behind_it(tick_store: TickStore) -> None:
    source, late = Exchange(), MARKET_START + 50 * HOUR
    await ingest(source, tick_store).up_to(late, MARKET_START + 30 * HOUR)
    early = MARKET_START + 10 * HOUR
    done = await ingest(source, tick_store).up_to(early, MARKET_START)
    assert done.newest_close == early
    await assert_whole(tick_store, source, late)


async def test_a_source_that_fails_leaves_what_was_stored_and_the_next_pass_goes_on(
    tick_store: TickStore,
) -> None:
    source = Exchange()
    work = ingest(source, tick_store)
    first, second = MARKET_START + 50 * HOUR, MARKET_START + 80 * HOUR
    await work.up_to(first)
    source.fails_at = len(source.asked) + 2
    with pytest.raises(SourceUnavailable, match="does not answer"):
        await work.up_to(second)
    source.fails_at = None
    for symbol in SYMBOLS:
        assert len(await stored(tick_store, symbol)) in (50, 80)
    await work.up_to(second)
    await assert_whole(tick_store, source, second)


@pytest.mark.parametrize("stop_at", range(1, 4))
async def test_a_pass_that_is_cut_off_leaves_no_hole(tick_store: TickStore, stop_at: int) -> None:
    """Cancelled while it reads, then while it writes; the next one ends where an undisturbed one would."""
    source, as_of = Exchange(), MARKET_START + 3000 * HOUR
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def progress(symbol: str, _: int) -> None:
        if symbol == SYMBOLS[stop_at - 1]:
            loop.call_soon(reached.set)

    task = asyncio.create_task(ingest(source, tick_store).up_to(as_of, progress=progress))
    await reached.wait()
    await asyncio.sleep(0.01 * (stop_at - 1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for symbol in SYMBOLS:
        found = await stored(tick_store, symbol)
        assert len(found) in (0, len(source.bars(symbol, MARKET_START, as_of)))
    done = await ingest(source, tick_store).up_to(as_of)
    assert done.newest_close == as_of
    await assert_whole(tick_store, source, as_of)


async def test_a_symbol_that_is_listed_late_begins_at_its_listing(tick_store: TickStore) -> None:
    listing = MARKET_START + 30 * HOUR
    source = Exchange(listed={"SOLUSDT": listing})
    work = ingest(source, tick_store)
    for hours in (10, 30, 31, 40):
        as_of = MARKET_START + hours * HOUR
        assert (await work.up_to(as_of)).newest_close == as_of
        await assert_whole(tick_store, source, as_of)
    assert len(await stored(tick_store, "SOLUSDT")) == 10


async def test_a_symbol_that_is_added_later_brings_its_whole_history(tick_store: TickStore) -> None:
    source, as_of = Exchange(), MARKET_START + 40 * HOUR
    await ingest(source, tick_store, SYMBOLS[:2]).up_to(as_of)
    assert (await ingest(source, tick_store).up_to(as_of)).n_new == 40
    await assert_whole(tick_store, source, as_of)


async def test_a_symbol_that_goes_away_does_not_hold_the_others_up(tick_store: TickStore) -> None:
    source = Exchange(gone={"ETHUSDT": MARKET_START + 20 * HOUR})
    work = ingest(source, tick_store)
    for hours in (15, 25, 35):
        as_of = MARKET_START + hours * HOUR
        assert (await work.up_to(as_of)).newest_close == as_of
        await assert_whole(tick_store, source, as_of)


async def test_a_recorded_market_ends_at_its_end(tick_store: TickStore) -> None:
    end = MARKET_START + 24 * HOUR
    source = Exchange(last=end)
    work = ingest(source, tick_store)
    assert (await work.up_to(end + 1000 * HOUR)).newest_close == end
    source.asked.clear()
    assert (await work.up_to(end + 2000 * HOUR)).n_new == 0
    assert source.asked == []


class Poisoned(Exchange):
    """Gives one bar whose price cannot be, and calls it sound."""

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        bars = super().read(symbol, start, end).sound
        close = bars.close.copy()
        close[len(close) // 2 :][:1] = -1.0 if symbol == SYMBOLS[-1] else close[len(close) // 2]
        broken = Bars(symbol, HOUR, bars.ts, bars.open, bars.high, bars.low, close, bars.volume)
        return Screened.passed(symbol, broken)


async def test_a_bar_that_its_source_takes_for_sound_and_the_store_refuses_stops_the_pass(
    tick_store: TickStore,
) -> None:
    with pytest.raises(DataError, match="refused a value"):
        await ingest(Poisoned(), tick_store).up_to(MARKET_START + 20 * HOUR)
    assert await tick_store.last_ts(MARKET_ID, SYMBOLS, HOUR) == {}


async def test_two_passes_at_once_store_every_bar_once(tick_store: TickStore) -> None:
    source, as_of = Exchange(), MARKET_START + 500 * HOUR
    done = await asyncio.gather(*(ingest(source, tick_store).up_to(as_of) for _ in range(4)))
    assert sum(step.n_new for step in done) == done[0].account.n_read
    await assert_whole(tick_store, source, as_of)


async def test_without_a_start_it_goes_on_and_fills_in_nothing_before(tick_store: TickStore) -> None:
    source, as_of = Exchange(), MARKET_START + 50 * HOUR
    await ingest(source, tick_store).up_to(as_of - 5 * HOUR, MARKET_START + 30 * HOUR)
    assert (await ingest(source, tick_store).up_to(as_of)).n_new == 3 * 5
    assert_equal(await stored(tick_store, "BTCUSDT"), source.bars("BTCUSDT", MARKET_START + 30 * HOUR, as_of))


async def test_a_long_way_is_stored_stretch_by_stretch(tick_store: TickStore) -> None:
    source, as_of = Exchange(), MARKET_START + 50 * HOUR
    work = Ingest(source, Intake(tick_store, MARKET_ID), SYMBOLS, chunk_bars=7)

    def cut_short(symbol: str, n_bars: int) -> None:
        if n_bars > 20:
            raise SourceUnavailable("The exchange went away.")

    with pytest.raises(SourceUnavailable):
        await work.up_to(as_of, progress=cut_short)
    assert len(await stored(tick_store, "BTCUSDT")) == 14
    await work.up_to(as_of)
    await assert_whole(tick_store, source, as_of)
