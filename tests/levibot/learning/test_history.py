"""The history that is loaded hour by hour is the one that a whole computation gives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.clock import ManualClock
from levibot.features.engine import compute
from levibot.features.views import CORE
from levibot.learning import history
from levibot.learning.history import HistoryLoader
from levibot.learning.labels import forward_returns, label_name
from levibot.market.bars import Bars, Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.stores.history_rows import Series
from levibot.stores.offline import OfflineStore
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
N = 1500
FEATURES = Series.of_view(CORE)
HORIZON = 8


@pytest.fixture(scope="module")
def market() -> dict[str, Bars]:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    return {s: source.bars(s, MARKET_START, MARKET_START + N * HOUR) for s in SYMBOLS}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(MARKET_START)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[OfflineStore]:
    opened = OfflineStore.open(tmp_path / "history", "market", clock)
    yield opened
    opened.close()


@pytest.fixture
def loader(tick_store: TickStore, store: OfflineStore) -> HistoryLoader:
    return HistoryLoader(tick_store, store, market_id="market", symbols=SYMBOLS, interval=HOUR, view=CORE)


def at(clock: ManualClock, hours: float) -> datetime:
    """Move the clock there."""
    clock.advance((MARKET_START + hours * HOUR - clock.now()).total_seconds())
    return clock.now()


def assert_is_whole(store: OfflineStore, panel: Panel, as_of: datetime) -> None:
    """The history says what one computation over the whole panel says."""
    features = compute(CORE, panel)
    labels = forward_returns(panel, features[:, :, CORE.index("vol_slow")], HORIZON)
    for column, symbol in enumerate(SYMBOLS):
        known = store.read(FEATURES, SYMBOLS, as_of=as_of)[symbol]
        rows = np.isfinite(features[:, column]).any(axis=1)
        np.testing.assert_array_equal(known.event_us, panel.closes_at[rows].astype(np.int64))
        np.testing.assert_allclose(
            known.values(range(len(CORE.names))), features[rows, column], rtol=1e-6, atol=1e-12
        )
        of = store.read(Series.of_label(label_name(HORIZON)), SYMBOLS, as_of=as_of)[symbol]
        labelled = np.isfinite(labels.values[:, column])
        assert labelled.any()
        np.testing.assert_array_equal(of.event_us, panel.closes_at[labelled].astype(np.int64))
        np.testing.assert_allclose(
            of.values([0])[:, 0], labels.values[labelled, column], rtol=1e-6, atol=1e-12
        )


async def test_hour_by_hour_the_history_becomes_what_a_whole_computation_gives(
    loader: HistoryLoader,
    store: OfflineStore,
    clock: ManualClock,
    tick_store: TickStore,
    market: dict[str, Bars],
) -> None:
    await tick_store.write_many("market", market.values())
    whole = await loader.load(at(clock, 1400))
    assert whole.up_to == clock.now()
    assert (await loader.load(clock.now())).n_rows == 0
    for hours in (1401, 1402.5, 1450, 1450.5):
        await loader.load(at(clock, hours))
    assert_is_whole(store, Panel.align(market).rows(slice(0, 1450)), clock.now())


async def test_a_pass_in_many_steps_gives_what_one_gives(
    loader: HistoryLoader,
    store: OfflineStore,
    clock: ManualClock,
    tick_store: TickStore,
    market: dict[str, Bars],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "STEP_ROWS", 400)
    await tick_store.write_many("market", market.values())
    await loader.load(at(clock, N))
    # Each step is a write of its own, and the clock stood still meanwhile.
    assert store.now() > clock.now()
    assert_is_whole(store, Panel.align(market), store.now())


async def test_a_row_is_known_from_its_writing_on_and_not_from_its_close(
    loader: HistoryLoader,
    store: OfflineStore,
    clock: ManualClock,
    tick_store: TickStore,
    market: dict[str, Bars],
) -> None:
    await tick_store.write_many("market", market.values())
    await loader.load(at(clock, 1450.25))
    early = MARKET_START + 1450 * HOUR
    assert len(store.read(FEATURES, SYMBOLS, as_of=early)["BTCUSDT"]) == 0
    assert len(store.read(FEATURES, SYMBOLS, as_of=clock.now())["BTCUSDT"]) > 1400


async def test_a_history_may_be_declared_to_have_been_known_at_its_close(
    loader: HistoryLoader,
    store: OfflineStore,
    clock: ManualClock,
    tick_store: TickStore,
    market: dict[str, Bars],
) -> None:
    """Also after it was loaded: whoever brings a folder of bars has the whole choice."""
    await tick_store.write_many("market", market.values())
    await loader.load(at(clock, N))
    declared = await loader.load(clock.now(), assume_available_at_close=True)
    assert declared.n_rows > 0
    early = MARKET_START + 1450 * HOUR
    assert_is_whole(store, Panel.align(market).rows(slice(0, 1450)), early)
    again = await loader.load(clock.now(), assume_available_at_close=True)
    assert again.n_rows == 0


async def test_a_late_bar_gives_new_versions_and_leaves_what_was_known(
    loader: HistoryLoader,
    store: OfflineStore,
    clock: ManualClock,
    tick_store: TickStore,
    market: dict[str, Bars],
) -> None:
    hole = market["ETHUSDT"].ts[1430]
    kept = market["ETHUSDT"].ts != hole
    eth = market["ETHUSDT"]
    with_hole = Bars(
        "ETHUSDT", HOUR, *(getattr(eth, f)[kept] for f in ("ts", "open", "high", "low", "close", "volume"))
    )
    await tick_store.write_many("market", [market["BTCUSDT"], with_hole])
    before = await loader.load(at(clock, 1460))
    assert before.corrected_from is None
    as_of = clock.now()
    then = {s: known.values([0, 1, 2]) for s, known in store.read(FEATURES, SYMBOLS, as_of=as_of).items()}

    await tick_store.write_many("market", [eth])
    after = await loader.load(at(clock, 1462))
    assert after.corrected_from is not None
    assert after.corrected_from <= MARKET_START + 1430 * HOUR
    assert_is_whole(store, Panel.align(market).rows(slice(0, 1462)), clock.now())
    for symbol, known in store.read(FEATURES, SYMBOLS, as_of=as_of).items():
        np.testing.assert_array_equal(known.values([0, 1, 2]), then[symbol])
    # What lies before the day of the hole was not written again.
    eth_now = store.read(FEATURES, SYMBOLS, as_of=clock.now())["ETHUSDT"]
    early = eth_now.event_us < (hole - np.timedelta64(24, "h")).astype(np.int64)
    assert eth_now.available_us[early].max() < eth_now.available_us[~early].max()
    assert (await loader.load(at(clock, 1463))).corrected_from is None


async def test_without_bars_there_is_nothing_to_load(loader: HistoryLoader, clock: ManualClock) -> None:
    assert (await loader.load(at(clock, 1))).up_to is None
