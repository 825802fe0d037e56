"""A live market: what is finished is kept, what is not is dropped, and faults carry our names."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.errors import DataError, SourceError, SourceUnavailable, UnknownSymbol, UsageError
from levibot.market.bars import FIELDS
from levibot.market.exchange import PAGE_BARS, ExchangeSource
from levibot.market.parquet import ParquetSource
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from tests.fakes.exchange_server import FakeExchange

HOUR = timedelta(hours=1)
N_BARS = 2 * PAGE_BARS + 300
END = MARKET_START + N_BARS * HOUR
MARKET = SimulatedSource(("BTCUSDT",), HOUR, 5, 0.0).bars("BTCUSDT", MARKET_START, END)


@pytest.fixture
def server() -> Iterator[FakeExchange]:
    with FakeExchange({"BTCUSDT": MARKET}) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(END + HOUR)


@pytest.fixture
def source(server: FakeExchange, clock: ManualClock) -> Iterator[ExchangeSource]:
    opened = ExchangeSource(
        "binance", ("BTCUSDT", "NONEUSDT"), HOUR, clock, base_url=server.url, timeout_s=5.0
    )
    yield opened
    opened.close()


def test_pages_join_to_the_whole_range(source: ExchangeSource, server: FakeExchange) -> None:
    bars = source.bars("BTCUSDT", MARKET_START, END)
    assert np.array_equal(bars.ts, MARKET.ts)
    assert np.allclose(bars.close, MARKET.close, rtol=1e-9)
    assert server.requests.count("/api/v3/klines") == 3


def test_markets_are_loaded_once(source: ExchangeSource, server: FakeExchange) -> None:
    for _ in range(2):
        source.bars("BTCUSDT", MARKET_START, MARKET_START + HOUR)
    assert server.requests.count("/api/v3/exchangeInfo") == 1


@pytest.mark.parametrize(
    ("past_the_close_s", "n_bars"),
    [(-0.001, 9), (0.0, 10), (3599.0, 10), (3600.0, 11)],
)
def test_a_bar_is_finished_from_its_close_on(
    source: ExchangeSource, clock: ManualClock, past_the_close_s: float, n_bars: int
) -> None:
    back_s = (END + HOUR - MARKET_START - 10 * HOUR).total_seconds()
    clock.advance(past_the_close_s - back_s)
    assert len(source.bars("BTCUSDT", MARKET_START, END)) == n_bars


def test_a_stretch_without_bars_longer_than_a_page_is_crossed(
    source: ExchangeSource, server: FakeExchange
) -> None:
    rows = server.klines["BTCUSDT"]
    server.klines["BTCUSDT"] = rows[:10] + rows[PAGE_BARS + 200 :]
    bars = source.bars("BTCUSDT", MARKET_START - 3 * PAGE_BARS * HOUR, END)
    assert len(bars) == len(rows) - PAGE_BARS - 190


def test_a_symbol_that_is_not_traded_is_unknown(source: ExchangeSource) -> None:
    with pytest.raises(UnknownSymbol, match="no spot market 'NONEUSDT'"):
        source.bars("NONEUSDT", MARKET_START, END)


@pytest.mark.parametrize("is_connected", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, '{"code": -1000, "msg": "An unknown error."}', SourceUnavailable),
        (503, "<html>down for maintenance</html>", SourceUnavailable),
        (429, '{"code": -1003, "msg": "Too many requests."}', SourceUnavailable),
        (400, '{"code": -1100, "msg": "Illegal characters."}', SourceError),
        (200, "[[1514764800000, ", SourceError),
        (200, "<html>hello</html>", SourceError),
        (200, "", SourceError),
        (200, '{"symbols": null}', SourceError),
        (200, "[[]]", SourceError),
        (200, '["a", "b"]', SourceError),
        (200, "null", SourceError),
        (200, "7", SourceError),
    ],
)
def test_a_bad_answer_is_one_of_our_errors(
    source: ExchangeSource,
    server: FakeExchange,
    is_connected: bool,
    status: int,
    body: str,
    error: type[SourceError],
) -> None:
    if is_connected:
        source.bars("BTCUSDT", MARKET_START, MARKET_START + HOUR)
    server.answer = (status, body)
    asked = len(server.requests)
    with pytest.raises(SourceError, match="exchange binance") as caught:
        source.bars("BTCUSDT", MARKET_START, END)
    assert type(caught.value) is error
    # Only what a repeat may cure is repeated.
    assert len(server.requests) == asked + (3 if error is SourceUnavailable else 1)


def test_it_works_again_after_a_fault(source: ExchangeSource, server: FakeExchange) -> None:
    server.answer = (500, "{}")
    with pytest.raises(SourceUnavailable):
        source.bars("BTCUSDT", MARKET_START, MARKET_START + HOUR)
    server.answer = None
    assert len(source.bars("BTCUSDT", MARKET_START, MARKET_START + HOUR)) == 1


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        (4, None, "close nan"),
        (4, "-1.0", "close -1"),
        (2, "0.5", "high 0.5 is below"),
        (0, 1577840400001, "grid"),
    ],
)
def test_a_bar_that_breaks_the_schema_is_refused(
    source: ExchangeSource, server: FakeExchange, column: int, value: object, sentence: str
) -> None:
    server.klines["BTCUSDT"][1][column] = value
    with pytest.raises(DataError, match=f"answer of binance: row 1 .*{sentence}"):
        source.bars("BTCUSDT", MARKET_START, MARKET_START + 5 * HOUR)
    rows = source.read("BTCUSDT", MARKET_START, MARKET_START + 5 * HOUR)
    assert np.array_equal(rows.sound.ts, np.delete(MARKET.ts[:5], 1))
    assert len(rows.rejects) == 1


def test_a_refused_connection_makes_the_source_unavailable(clock: ManualClock) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        source = ExchangeSource("binance", ("BTCUSDT",), HOUR, clock, base_url=url, timeout_s=2.0)
        with pytest.raises(SourceUnavailable, match="does not answer"):
            source.bars("BTCUSDT", MARKET_START, END)
        source.close()


def test_a_silent_exchange_times_out(clock: ManualClock) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        source = ExchangeSource("binance", ("BTCUSDT",), HOUR, clock, base_url=url, timeout_s=0.2)
        with pytest.raises(SourceUnavailable, match="exchange binance d"):
            source.bars("BTCUSDT", MARKET_START, END)
        source.close()


def test_the_extent_begins_at_the_listing_and_has_no_end(server: FakeExchange, clock: ManualClock) -> None:
    source = ExchangeSource("binance", ("BTCUSDT",), HOUR, clock, base_url=server.url)
    assert source.extent() == (MARKET_START, None)
    source.close()


def test_an_unknown_exchange_is_named(clock: ManualClock) -> None:
    with pytest.raises(UsageError, match="no exchange 'nowhere'"):
        ExchangeSource("nowhere", ("BTCUSDT",), HOUR, clock)


def test_an_interval_that_the_exchange_lacks_is_refused(clock: ManualClock) -> None:
    with pytest.raises(UsageError, match="no bars of 7:00:00"):
        ExchangeSource("binance", ("BTCUSDT",), timedelta(hours=7), clock)


@pytest.mark.market
def test_recorded_answers_read_as_the_recorded_bars(source: ExchangeSource, server: FakeExchange) -> None:
    folder = os.environ.get("LEVIBOT_MARKET_DATA")
    if folder is None:
        pytest.skip("LEVIBOT_MARKET_DATA is not set")
    body = (Path(folder) / "wire" / "rest_klines_spot_BTCUSDT_1h.json").read_text()
    server.klines["BTCUSDT"] = json.loads(body)
    first = datetime(2018, 1, 1, tzinfo=UTC)
    live = source.bars("BTCUSDT", first, first + timedelta(days=7))
    recorded = ParquetSource(Path(folder), ("BTCUSDT",), HOUR).bars(
        "BTCUSDT", first, first + timedelta(days=7)
    )
    rows = np.searchsorted(recorded.ts, live.ts)
    assert len(live) == len(json.loads(body))
    for field in ("ts", *FIELDS):
        assert np.array_equal(getattr(live, field), getattr(recorded, field)[rows])


def test_threads_may_ask_at_the_same_time(source: ExchangeSource, server: FakeExchange) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(source.bars, "BTCUSDT", MARKET_START, END) for _ in range(4)]
        assert all(np.array_equal(answer.result().ts, MARKET.ts) for answer in asked)
    assert server.requests.count("/api/v3/exchangeInfo") == 1


async def test_it_may_be_asked_from_a_thread_of_a_running_loop(source: ExchangeSource) -> None:
    bars = await asyncio.to_thread(source.bars, "BTCUSDT", MARKET_START, MARKET_START + 5 * HOUR)
    assert len(bars) == 5


def test_a_closed_source_says_so(source: ExchangeSource) -> None:
    for _ in range(2):
        source.close()
        with pytest.raises(UsageError, match="exchange binance is closed"):
            source.bars("BTCUSDT", MARKET_START, MARKET_START + 5 * HOUR)


def test_a_process_that_forgets_its_source_ends_in_silence(server: FakeExchange) -> None:
    script = f"""
from datetime import UTC, datetime, timedelta
from levibot.clock import SystemClock
from levibot.market.exchange import ExchangeSource
hour, url = timedelta(hours=1), {server.url!r}
for _ in range(2):
    source = ExchangeSource("binance", ("BTCUSDT",), hour, SystemClock(), base_url=url)
    start = datetime.fromisoformat({MARKET_START.isoformat()!r})
    print(len(source.bars("BTCUSDT", start, start + 5 * hour)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["5", "5"], "")
