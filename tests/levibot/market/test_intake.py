"""Every row that goes in is new, was there, or is in quarantine; shown on a real PostgreSQL."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from levibot.errors import DataError
from levibot.market.bars import FIELDS, Bars
from levibot.market.intake import Account, Intake
from levibot.market.screening import Screened, screen_bars
from levibot.market.tick_screening import screen_ticks
from levibot.market.ticks import COLUMNS, Ticks
from levibot.stores.ticks import TickStore
from levibot.telemetry.metrics import Metrics

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
START = np.datetime64("2024-01-01T00:00:00", "us")
MARKETS = (f"market {n}" for n in itertools.count())
# Each example has a market of its own in the test's database.
one_database = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)

Columns = dict[str, Any]


def bar_columns(n: int) -> Columns:
    close = 100.0 + np.arange(n)
    return {
        "ts": START + np.arange(n) * np.timedelta64(HOUR),
        "open": close - 0.5,
        "high": close + 1.0,
        "low": close - 1.0,
        "close": close,
        "volume": np.full(n, 3.0),
    }


def tick_columns(n: int) -> Columns:
    return {
        "ts": START + np.arange(n) * np.timedelta64(250, "ms"),
        "price": 60_000.0 + np.arange(n) / 8,
        "size": 0.5 + np.arange(n) / 16,
        "trade_id": 900 + np.arange(n),
        "is_buyer_maker": np.arange(n) % 2 == 0,
    }


def bars(rows: Columns, symbol: str = "BTCUSDT") -> Screened[Bars]:
    return screen_bars(symbol, HOUR, rows, "a file")


def ticks(rows: Columns, symbol: str = "BTCUSDT") -> Screened[Ticks]:
    return screen_ticks(symbol, rows, "a file")


def broken_bars(n: int, n_broken: int) -> Screened[Bars]:
    """`n` bars, of which the first `n_broken` have no price, each in its own way."""
    rows = bar_columns(n)
    rows["close"][:n_broken] = -1.0 - np.arange(n_broken)
    return bars(rows)


@one_database
@given(data=st.data())
async def test_a_bar_is_new_or_there_or_in_quarantine(tick_store: TickStore, data: st.DataObject) -> None:
    market_id, n = next(MARKETS), data.draw(st.integers(2, 30))
    rows = bar_columns(n)
    broken = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    for row in broken:
        name = data.draw(st.sampled_from(FIELDS))
        rows[name][row] = data.draw(st.sampled_from([np.nan, -np.inf, -1.0 - row]))
    n_repeated = data.draw(st.integers(0, 3))
    last = max(set(range(n)) - broken)
    given_rows = {
        name: np.concatenate(
            [values[: last + 1], *[values[last : last + 1]] * n_repeated, values[last + 1 :]]
        )
        for name, values in rows.items()
    }
    known = sorted(data.draw(st.sets(st.integers(0, n - 1))) - broken)
    if known:
        before = bars({name: values[known] for name, values in bar_columns(n).items()})
        await tick_store.write_bars(market_id, before.sound)

    intake = Intake(tick_store, market_id)
    account = await intake.take_bars([bars(given_rows)])
    assert account.n_read == n + n_repeated
    assert account.n_rejected == len(broken)
    assert account.n_new == n - len(broken) - len(known)
    assert account.n_there == len(known) + n_repeated
    stored = await tick_store.read_bars(market_id, "BTCUSDT", HOUR)
    sound = sorted(set(range(n)) - broken)
    for name, values in bar_columns(n).items():
        np.testing.assert_array_equal(getattr(stored, name), values[sound])
    quarantined = await tick_store.quarantine.read(market_id)
    assert len(quarantined) == len(broken)
    assert {q.refused.row["ts"] for q in quarantined} == {f"{rows['ts'][row]}Z" for row in broken}
    # Once more: all of them are there, and nothing changes.
    again = await intake.take_bars([bars(given_rows)])
    assert again == Account(n_there=n + n_repeated)
    assert len(await tick_store.quarantine.read(market_id)) == len(broken)


@one_database
@given(data=st.data())
async def test_a_trade_is_new_or_there_or_in_quarantine(tick_store: TickStore, data: st.DataObject) -> None:
    market_id, n = next(MARKETS), data.draw(st.integers(1, 40))
    rows = tick_columns(n)
    broken = data.draw(st.sets(st.integers(0, n - 1)))
    for row in broken:
        rows[data.draw(st.sampled_from(["price", "size"]))][row] = -1.0 - row
    cut = data.draw(st.integers(0, n))
    first, rest = (ticks({k: v[part] for k, v in rows.items()}) for part in (slice(0, cut), slice(0, n)))
    intake = Intake(tick_store, market_id)
    early = await intake.take_ticks([first])
    late = await intake.take_ticks([rest])
    assert (early.n_read, late.n_read) == (cut, n)
    assert late.n_there == cut
    assert early.n_rejected + late.n_rejected == len(broken)
    stored = await tick_store.ticks.read(market_id, "BTCUSDT")
    for name in COLUMNS:
        clean = np.delete(tick_columns(n)[name], list(broken))
        np.testing.assert_array_equal(getattr(stored, name), clean)
    assert len(await tick_store.quarantine.read(market_id)) == len(broken)


async def test_the_quarantine_is_bounded_a_pass_and_what_is_over_it_is_counted(tick_store: TickStore) -> None:
    metrics = Metrics(CollectorRegistry())
    intake = Intake(tick_store, "m", max_kept=3, metrics=metrics)
    account = await intake.take_bars([broken_bars(20, 8)])
    assert account == Account(n_new=12, reasons={"not_positive": 8}, n_unkept=5)
    assert len(await tick_store.quarantine.read("m")) == 3
    labels = {"table": "bars", "reason": "not_positive"}
    assert metrics.registry.get_sample_value("levibot_rows_rejected_total", labels) == 8
    # There is room for none of another set in this pass, and for three of it in the next one.
    rows = bar_columns(4)
    rows["high"][:4] = 0.5
    assert (await intake.take_bars([bars(rows, "ETHUSDT")])).n_unkept == 4
    intake.begin()
    assert (await intake.take_bars([bars(rows, "ETHUSDT")])).n_unkept == 1
    assert len(await tick_store.quarantine.read("m")) == 6


async def test_a_row_that_is_rejected_at_every_poll_is_counted_once(tick_store: TickStore) -> None:
    metrics = Metrics(CollectorRegistry())
    intake = Intake(tick_store, "m", metrics=metrics)
    for _ in range(3):
        intake.begin()
        await intake.take_bars([broken_bars(5, 2)])
    labels = {"table": "bars", "reason": "not_positive"}
    assert metrics.registry.get_sample_value("levibot_rows_rejected_total", labels) == 2


async def test_rejected_rows_are_kept_even_when_the_sound_ones_cannot_be_stored(
    tick_store: TickStore,
) -> None:
    """Were the sound ones first, a pass that is cut short between the two would not see the others again."""
    rows = broken_bars(5, 1)
    impossible = Bars("ETHUSDT", HOUR, rows.sound.ts, *(-getattr(rows.sound, f) for f in FIELDS))
    with pytest.raises(DataError):
        await Intake(tick_store, "m").take_bars([rows, Screened.passed("ETHUSDT", impossible)])
    assert len(await tick_store.quarantine.read("m")) == 1
    assert await tick_store.last_ts("m", ["BTCUSDT", "ETHUSDT"], HOUR) == {}


def test_accounts_add_up() -> None:
    one = Account(n_new=3, n_there=1, reasons={"conflict": 2}, n_unkept=1)
    other = Account(n_new=1, reasons={"conflict": 1, "off_grid": 4})
    both = one + other
    assert both == Account(4, 1, {"conflict": 3, "off_grid": 4}, 1)
    assert both.n_read == one.n_read + other.n_read == 12
