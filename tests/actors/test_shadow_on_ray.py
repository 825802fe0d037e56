"""The shadow ledger and the ensemble's weights as real processes, killed while bars and decisions come in."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from actors import NAMESPACE, ensemble_weights, shadow_ledger
from levibot.errors import LeviBotError
from levibot.learning.market_days import market_days
from levibot.learning.members import Opinions, prior_weights
from levibot.learning.weights import WeightState, weights_over
from levibot.market.bars import Panel, to_datetime
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.serving.weighing import Route, Weighing
from levibot.serving.weight_keeping import returns_of
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_registry
from levibot.stores.live_weights import HeldWeights, LiveWeights
from levibot.stores.ticks import TickStore
from levibot.trading.allocation import on_days, regimes_at
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import Costs
from levibot.trading.shadow import Book, Decision, price

pytestmark = [pytest.mark.ray, pytest.mark.stores]

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
MEMBERS = ("trend", "strength", "lightgbm")
# A day of market time in .8 s.
BARS_PER_S = 30.0
BEGIN = MARKET_START + timedelta(days=200)
N_LIVE = 1_500
BAND = 0.012


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    end = BEGIN + N_LIVE * HOUR
    return Panel.align({symbol: source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS})


@pytest.fixture(scope="module")
def opinions(panel: Panel) -> Opinions:
    """What three members say at every close; they change their minds twice a day."""
    rng = np.random.default_rng(4)
    n_rows = len(panel)
    values = np.repeat(rng.uniform(-0.5, 1.0, (n_rows // 12 + 1, 2, 3)), 12, axis=0)[:n_rows]
    return Opinions(MEMBERS, values, np.full((n_rows, 2), 0.15), np.full(values.shape, np.nan))


@pytest.fixture
async def settings(
    cluster: None, tick_store: TickStore, postgres_dsn: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[Settings]:
    """A market whose bars are all stored, and whose clock lets the actors see one after the other."""
    async with tick_store._client.connection("which_database") as (db, _):
        database = await db.fetchval("SELECT current_database()")
    settings = Settings.load(
        home=tmp_path,
        # A database of its own: letters of a log that is not there must not meet another test.
        redis_url=redis_url.rpartition("/")[0] + "/5",
        postgres_dsn=f"{postgres_dsn.rsplit('/', 1)[0]}/{database}",
        symbols=SYMBOLS,
        replay_start=BEGIN,
        replay_wall_start=datetime.now(UTC) + timedelta(seconds=2),
        replay_speed=BARS_PER_S,
    )
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    end = BEGIN + N_LIVE * HOUR
    await tick_store.write_many(
        settings.market_id, [source.bars(symbol, MARKET_START, end) for symbol in SYMBOLS]
    )
    registry = open_registry(settings)
    manifest = {"training": {"kinds": ["lightgbm"]}, "train_end": BEGIN.isoformat()}
    registry.activate(registry.publish(manifest, {"model.txt": b"tree\n"}), "trained")
    yield settings
    ray.kill(ray.get_actor(ensemble_weights.NAME, namespace=NAMESPACE), no_restart=True)


async def test_killed_under_load_every_bar_is_priced_once_and_no_wrong_weight_is_served(
    settings: Settings, tick_store: TickStore, panel: Panel, opinions: Opinions
) -> None:
    shadow_ledger.start(settings)
    ensemble_weights.start(settings)
    live = LiveWeights(open_durable(settings))
    ending, seen = asyncio.Event(), [()]
    deciding = asyncio.create_task(_decide(settings, tick_store, live, panel, opinions, ending))
    reading = asyncio.create_task(_read(settings, live, ending, seen))
    try:
        reach = BEGIN
        for victim in ("ray::ShadowLedger", "ray::EnsembleWeights", "ray::ShadowLedger"):
            reach = await _until_priced(settings, tick_store, reach + 30 * HOUR)
            process_of(victim).send_signal(signal.SIGKILL)
        await _until_priced(settings, tick_store, reach + 60 * HOUR)
        await _until_moved(seen, 2)
    finally:
        ending.set()
        await asyncio.gather(deciding, reading)
    decisions = await tick_store.shadow.decisions(settings.market_id)
    last = decisions[-1].as_of + HOUR
    await _until_priced(settings, tick_store, last)
    ray.kill(ray.get_actor(shadow_ledger.NAME, namespace=NAMESPACE), no_restart=True)
    # What it was in the middle of is undone by the server by then: what is priced now stays.
    await asyncio.sleep(0.5)
    decisions = [d for d in await tick_store.shadow.decisions(settings.market_id) if d.as_of < last]
    await _check_accounts(settings, tick_store, panel, decisions)
    history = await _check_weights(settings, tick_store, live, panel)
    by_day = {held.as_of: held for held in history}
    for held in seen:
        for one in held:
            assert one.as_of is None or one == by_day[one.as_of]
            assert one.as_of is not None or np.allclose(one.weights, prior_weights(MEMBERS))
    await live.close()


async def _check_accounts(
    settings: Settings, ticks: TickStore, panel: Panel, decisions: list[Decision]
) -> None:
    """Accounts and fills are those of one undisturbed pricing, and of a backtest of the same positions."""
    market_id = settings.market_id
    async with ticks._client.connection("progress") as (db, _):
        priced_to = await db.fetchval("SELECT priced_to FROM shadow_progress WHERE market_id = $1", market_id)
        stored = await db.fetch(
            "SELECT account, symbol, ts, units, price, fee, equity FROM shadow_fills WHERE market_id = $1",
            market_id,
        )
    begins_at = decisions[0].as_of
    first, end = (
        int(np.searchsorted(panel.ts, np.datetime64(at.replace(tzinfo=None), "us")))
        for at in (begins_at, priced_to)
    )
    rows = panel.rows(slice(first, end))
    whole = price(Book.empty(SYMBOLS), rows, begins_at, decisions, Costs())
    book = await ticks.shadow.book(market_id)
    assert set(book.accounts) == {*MEMBERS, "ensemble", "router", "fixed_weights"}
    place = [book.symbols.index(symbol) for symbol in SYMBOLS]
    for name, account in whole.book.accounts.items():
        found = book.accounts[name]
        assert found.equity == account.equity
        assert found.units[place].tolist() == account.units.tolist()
    wanted = sorted((f.account, f.symbol, f.ts, f.units, f.price, f.fee, f.equity) for f in whole.fills)
    assert sorted(tuple(row) for row in stored) == wanted
    for name in (*MEMBERS, "ensemble"):
        positions = np.full((len(rows) + 1, len(SYMBOLS)), np.nan)
        for d in decisions:
            row = int(np.searchsorted(rows.ts, np.datetime64(d.as_of.replace(tzinfo=None), "us")))
            positions[row, SYMBOLS.index(d.symbol)] = d.positions[name]
        ordered = decided_at_close(positions)[1:]
        account = simulate(ordered, rows.open, rows.close, Costs(), no_trade_band=BAND)
        assert book.accounts[name].equity == pytest.approx(account.equity[-1], rel=1e-9)
    days = {(day.account, day.day): day for day in await ticks.shadow.days(market_id)}
    assert days == {(day.account, day.day): day for day in whole.days}


async def _check_weights(
    settings: Settings, ticks: TickStore, live: LiveWeights, panel: Panel
) -> list[HeldWeights]:
    """Every day's weights are those of one pass over what the accounts earned. Returns them, newest first."""
    market_id = settings.market_id
    reach = await ticks.shadow.reach(market_id)
    assert reach is not None
    started = time.monotonic()
    last = reach.date() - timedelta(days=1)
    while not (history := await ticks.weights.newest(market_id, 1_000)) or history[0].held.as_of != last:
        assert time.monotonic() - started < 60, history[:1]
        await asyncio.sleep(0.2)
    days, returns = returns_of(await ticks.shadow.days(market_id, end=reach.date()), MEMBERS, last)
    market = market_days(panel)
    own = np.array(days, dtype="datetime64[D]")
    regimes = on_days(market.day, regimes_at(market, [BEGIN]), own)
    state = WeightState.beginning(MEMBERS, prior_weights(MEMBERS))
    held, _ = weights_over(state, own, returns, regimes)
    found = np.array([known.held.weights for known in history[::-1]])
    np.testing.assert_allclose(found, held[1:], rtol=0.0, atol=1e-12)
    return [known.held for known in history]


async def _decide(
    settings: Settings,
    ticks: TickStore,
    live: LiveWeights,
    panel: Panel,
    opinions: Opinions,
    ending: asyncio.Event,
) -> None:
    """What the router does: at each new close the weights, then the decisions, until it is to end."""
    weighing, clock = Weighing(live, settings.market_id, timeout_s=2.0), settings.clock()
    row = int(np.searchsorted(panel.closes_at, np.datetime64(BEGIN.replace(tzinfo=None), "us")))
    while not ending.is_set():
        as_of = to_datetime(panel.closes_at[row])
        if as_of > clock.now():
            await asyncio.sleep(0.005)
            continue
        route: Route = await weighing.route(MEMBERS, as_of)
        blends = zip(SYMBOLS, route.blends(opinions.row(row), BAND), strict=True)
        decisions = [
            Decision(symbol, as_of, "v1.0.0", "w", BAND, blend.positions, blend.to_json())
            for symbol, blend in blends
            if blend is not None
        ]
        await ticks.shadow.decide(settings.market_id, decisions)
        row += 1


async def _read(
    settings: Settings, live: LiveWeights, ending: asyncio.Event, seen: list[tuple[HeldWeights, ...]]
) -> None:
    while not ending.is_set():
        held = await live.read(settings.market_id)
        if held != seen[-1]:
            seen.append(held)
        await asyncio.sleep(0.02)


async def _until_priced(settings: Settings, ticks: TickStore, at: datetime) -> datetime:
    started = time.monotonic()
    while True:
        try:
            reach = await ticks.shadow.reach(settings.market_id)
        except LeviBotError:
            reach = None
        if reach is not None and reach >= at:
            return reach
        assert time.monotonic() - started < 90, f"the accounts stand at {reach}, and not at {at}"
        await asyncio.sleep(0.1)


async def _until_moved(seen: list[tuple[HeldWeights, ...]], n_days: int) -> None:
    """Until weights that have learned from so many days were read."""
    started = time.monotonic()
    while len({one.as_of for held in seen for one in held} - {None}) < n_days:
        assert time.monotonic() - started < 90, f"the weights did not move: {seen[-1]}"
        await asyncio.sleep(0.1)


def process_of(name: str) -> psutil.Process:
    """The one that this test's own cluster runs."""
    (found,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if name in " ".join(process.cmdline())
    )
    return found
