"""Side series reach features as they were known: live, in the history, in a rebuild and in a backtest."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from levibot.clock import ManualClock
from levibot.features.engine import compute
from levibot.features.funding import FUNDING
from levibot.features.materialise import Materialiser, ShardWindow
from levibot.features.outside import OUTSIDE
from levibot.features.parity import check_parity
from levibot.features.served import ServedVector
from levibot.features.shards import Shard
from levibot.features.side_data import attach_stored, attach_told, own_times, read_side_series
from levibot.features.view import FeatureView
from levibot.features.views import CORE
from levibot.learning.history import HistoryLoader
from levibot.learning.training import hash_panel
from levibot.market.bars import FIELDS, Bars, Panel, to_datetime, to_datetime64
from levibot.market.intake import Intake
from levibot.market.observations import Observations
from levibot.market.parquet import ParquetSource
from levibot.market.price_process import MARKET_START
from levibot.market.side_ingest import ingest_side_series
from levibot.market.side_series import (
    DEX_SPREAD,
    FUNDING_PERIOD,
    FUNDING_RATE,
    LONGEST_AGE,
    NFT_FLOOR,
    SideSeries,
)
from levibot.market.simulator import SimulatedSource
from levibot.stores.history_rows import Series
from levibot.stores.offline import OfflineStore
from levibot.stores.online import FeatureReading, OnlineStore
from levibot.stores.ticks import TickStore

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
RUN = secrets.token_hex(3).upper()
SYMBOLS = (f"BTC{RUN}", f"ETH{RUN}")
N = 1600
# What each room computes: features of funding, of outside data, and one that reads neither but labels need.
VIEW = FeatureView("side", (*(f for f in CORE.features if f.name == "vol_slow"), *FUNDING, *OUTSIDE))
MARKET = "m"


def bars(n: int = N) -> dict[str, Bars]:
    source = SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.0)
    return {symbol: source.bars(symbol, MARKET_START, MARKET_START + n * HOUR) for symbol in SYMBOLS}


def observed(
    name: str, symbol: str | None, every: timedelta, late: timedelta, n: int, rng: np.random.Generator
) -> Observations:
    """One observation after the other from the market's start on, each known a little later.

    Quotes are of a minute within the hour, payments and floors of its beginning.
    """
    begin = MARKET_START + (20 * MINUTE if name == DEX_SPREAD else 0 * MINUTE)
    events = to_datetime64(begin) + np.arange(n) * np.timedelta64(every)
    value = np.abs(rng.normal(1e-4, 1e-4, n)) + 1e-6
    return Observations("x", name, symbol, events, events + np.timedelta64(late), value)


@pytest.fixture
def told() -> list[Observations]:
    rng = np.random.default_rng(5)
    # Funding of one symbol ends early; quotes of the other stop before the end, and are missing then.
    return [
        observed(FUNDING_RATE, SYMBOLS[0], 8 * HOUR, MINUTE, N // 8, rng),
        observed(FUNDING_RATE, SYMBOLS[1], 8 * HOUR, MINUTE, N // 8 - 5, rng),
        observed(DEX_SPREAD, SYMBOLS[0], HOUR, 7 * MINUTE, N - 1, rng),
        observed(DEX_SPREAD, SYMBOLS[1], HOUR, 7 * MINUTE, N - 3, rng),
        observed(NFT_FLOOR, None, 2 * HOUR, timedelta(0), N // 2, rng),
    ]


@pytest.fixture
async def stored(tick_store: TickStore, told: list[Observations]) -> TickStore:
    await tick_store.write_many(MARKET, bars().values())
    await tick_store.observations.write(MARKET, told)
    return tick_store


def expected(told: list[Observations]) -> Panel:
    """The panel by the plainest reading of what was known at each close."""
    panel = Panel.align(bars())
    extra = {name: np.full(panel.close.shape, np.nan) for name in (FUNDING_RATE, DEX_SPREAD, NFT_FLOOR)}
    for one in told:
        for column, symbol in enumerate(panel.symbols):
            if one.symbol not in (None, symbol):
                continue
            for row, close in enumerate(panel.closes_at):
                known = np.flatnonzero(one.available_ts <= close)
                if len(known) and close - one.event_ts[known[-1]] <= np.timedelta64(LONGEST_AGE[one.name]):
                    extra[one.name][row, column] = one.value[known[-1]]
    return Panel(**{**{f: getattr(panel, f) for f in ("symbols", "interval", "ts", *FIELDS)}, "extra": extra})


@pytest.mark.stores
async def test_live_history_and_rebuild_say_what_was_known_at_each_close(
    stored: TickStore, told: list[Observations], redis_url: str, tmp_path: Path
) -> None:
    panel = expected(told)
    batch = compute(VIEW, panel)
    assert np.isfinite(batch[-1, 0, VIEW.index("funding_rate")])
    assert np.isnan(batch[-1, 1, VIEW.index("funding_rate")])
    assert np.isnan(batch[-1, 1, VIEW.index("dex_spread")])
    from_store = await attach_stored(Panel.align(bars()), stored, MARKET, VIEW)
    for name, series in panel.extra.items():
        np.testing.assert_array_equal(from_store.extra[name], series, err_msg=name)

    now = MARKET_START + N * HOUR
    # Live: bar after bar, from the bounded window.
    readings = await live_vectors(stored, redis_url, [N - 12, N - 1, N])
    served = []
    for hours, by_symbol in readings.items():
        for column, symbol in enumerate(SYMBOLS):
            values = by_symbol[symbol].rows
            assert values is not None
            np.testing.assert_allclose(
                values[-1], batch[hours - 1, column], rtol=1e-6, atol=1e-12, err_msg=f"{symbol} {hours}"
            )
            served.append(
                ServedVector(
                    symbol,
                    MARKET,
                    VIEW.name,
                    VIEW.version,
                    MARKET_START + hours * HOUR,
                    now,
                    dict(zip(VIEW.names, values[-1].tolist(), strict=True)),
                )
            )
    # A rebuild of what was served.
    parity = await check_parity(stored, served, market_id=MARKET, symbols=SYMBOLS, interval=HOUR, view=VIEW)
    assert (parity.n_vectors, parity.differences) == (6, ())

    # The history, loaded in two passes.
    store = OfflineStore.open(tmp_path, MARKET, ManualClock(now))
    loader = HistoryLoader(stored, store, market_id=MARKET, symbols=SYMBOLS, interval=HOUR, view=VIEW)
    for as_of in (now - 20 * HOUR, now):
        await loader.load(as_of)
    for column, symbol in enumerate(SYMBOLS):
        known = store.read(Series.of_view(VIEW), SYMBOLS, as_of=now)[symbol]
        rows = np.searchsorted(panel.closes_at.astype(np.int64), known.event_us)
        np.testing.assert_allclose(
            known.values(range(len(VIEW.names))), batch[rows, column], rtol=1e-6, atol=1e-12
        )
        assert len(rows) > 1000
    store.close()


async def live_vectors(
    ticks: TickStore, redis_url: str, at_hours: list[int]
) -> dict[int, dict[str, FeatureReading]]:
    clock = ManualClock(MARKET_START)
    online = OnlineStore.open(
        redis_url,
        f"{MARKET}-{RUN}",
        VIEW.version,
        VIEW.names,
        clock=clock,
        interval=HOUR,
        fresh_bars=2.0,
        ttl_s=60.0,
        timeout_s=2.0,
    )
    window = ShardWindow(
        ticks, market_id=MARKET, symbols=SYMBOLS, interval=HOUR, view=VIEW, rows=2, shard=Shard()
    )
    materialiser = Materialiser(window, online)
    found = {}
    for hours in at_hours:
        clock.advance((MARKET_START + hours * HOUR - clock.now()).total_seconds())
        await materialiser.refresh(clock.now())
        found[hours] = {symbol: await online.get(symbol) for symbol in SYMBOLS}
    await online.close()
    return found


@pytest.mark.stores
async def test_a_view_without_such_features_asks_for_nothing(tick_store: TickStore) -> None:
    panel = Panel.align(bars(10))
    # A store that cannot be asked any more.
    await tick_store.close()
    assert await read_side_series(tick_store, MARKET, CORE, panel) == []
    assert await attach_stored(panel, tick_store, MARKET, CORE) is panel


def test_each_value_says_how_old_its_outside_part_is() -> None:
    panel = Panel.align(bars(10))
    close = panel.closes_at[-1]
    ages = {"BTC": 3, "ETH": 7}
    series = [
        SideSeries(
            FUNDING_RATE, symbol, np.array([close - ages[symbol[:3]] * np.timedelta64(1, "h")]), np.ones(1)
        )
        for symbol in SYMBOLS
    ]
    times = own_times(VIEW, panel, series)
    at = to_datetime(close)
    for symbol in SYMBOLS:
        assert times[symbol]["funding_mean_24"].source_time == at - ages[symbol[:3]] * HOUR
        assert times[symbol]["funding_mean_24"].life == LONGEST_AGE[FUNDING_RATE]
        assert times[symbol]["funding_mean_24"].every == FUNDING_PERIOD
        # What compares the symbols is as old as the oldest of them.
        assert times[symbol]["market_funding"].source_time == at - 7 * HOUR
        assert {"vol_slow", "dex_spread"}.isdisjoint(times[symbol])
    # What is too old to be used goes into nothing, and makes nothing old.
    old = SideSeries(FUNDING_RATE, SYMBOLS[1], close - np.array([17]) * np.timedelta64(1, "h"), np.ones(1))
    times = own_times(VIEW, panel, [series[0], old])
    assert times[SYMBOLS[0]]["market_funding"].source_time == at - 3 * HOUR
    assert "funding_rate" not in times[SYMBOLS[1]]


def recorded(folder: Path, with_funding: bool = True) -> ParquetSource:
    (folder / "bars_1h").mkdir()
    for symbol, of in bars(200).items():
        columns = {name: getattr(of, name) for name in ("ts", *FIELDS)}
        pq.write_table(pa.table(columns), folder / "bars_1h" / f"{symbol}.parquet")
    if with_funding:
        (folder / "funding").mkdir()
        paid_at = to_datetime64(MARKET_START) + np.arange(25) * np.timedelta64(8, "h")
        table = pa.table({"ts": paid_at, "funding_rate": np.linspace(-1e-4, 1e-4, 25)})
        pq.write_table(table, folder / "funding" / f"{SYMBOLS[0]}.parquet")
    return ParquetSource(folder, SYMBOLS, HOUR)


def test_a_recorded_market_tells_its_funding_where_there_is_any(tmp_path: Path) -> None:
    source = recorded(tmp_path)
    panel = Panel.align({s: source.bars(s, MARKET_START, MARKET_START + 200 * HOUR) for s in SYMBOLS})
    told = attach_told(panel, source, VIEW)
    rates = np.linspace(-1e-4, 1e-4, 25)
    np.testing.assert_allclose(
        told.extra[FUNDING_RATE][:, 0], rates[np.minimum((np.arange(200) + 1) // 8, 24)]
    )
    assert np.isnan(told.extra[FUNDING_RATE][:, 1]).all()
    assert attach_told(panel, source, CORE) is panel
    # What a model learned from is part of what it says of itself.
    assert hash_panel(told) != hash_panel(panel)
    part = attach_told(panel.rows(slice(100, 200)), source, VIEW)
    np.testing.assert_array_equal(part.extra[FUNDING_RATE], told.extra[FUNDING_RATE][100:])


def test_a_market_that_tells_nothing_leaves_its_features_missing(tmp_path: Path) -> None:
    quiet = recorded(tmp_path, with_funding=False)
    for source in (quiet, SimulatedSource(SYMBOLS, HOUR, seed=3, edge=0.0)):
        panel = Panel.align(bars(50))
        assert attach_told(panel, source, VIEW) is panel
        assert np.isnan(compute(VIEW, panel)[:, :, VIEW.index("funding_rate")]).all()


@pytest.mark.stores
async def test_what_is_recorded_is_stored_once_and_read_as_it_was_known(
    tick_store: TickStore, tmp_path: Path
) -> None:
    source, intake = recorded(tmp_path), Intake(tick_store, MARKET)
    first, last = source.extent()
    assert isinstance(last, datetime)
    accounts = [await ingest_side_series(source, intake, first, last) for _ in range(2)]
    assert [account.n_new for account in accounts] == [25, 0]
    panel = Panel.align({s: source.bars(s, first, last) for s in SYMBOLS})
    stored, told = await attach_stored(panel, tick_store, MARKET, VIEW), attach_told(panel, source, VIEW)
    np.testing.assert_array_equal(stored.extra[FUNDING_RATE], told.extra[FUNDING_RATE])
