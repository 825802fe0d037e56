"""The loops of the feed and of the features, without Ray: what must not end them, or hold them up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors import event_log, market_feed, online_features
from actors.market_feed import MarketFeed
from actors.online_features import OnlineFeatures
from levibot.errors import SourceUnavailable
from levibot.features.materialise import Materialised, Materialiser
from levibot.market.bars import Bars
from levibot.market.screening import Screened
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.events import Event
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

START = datetime(2020, 1, 3, tzinfo=UTC)


class StumblingMarket(SimulatedSource):
    """A market whose first answer is an error that nobody has foreseen."""

    has_stumbled = False

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        if not self.has_stumbled:
            self.has_stumbled = True
            raise ZeroDivisionError("planted")
        return super().bars(symbol, start, end)


class StumblingMaterialiser(Materialiser):
    """Fails at its first refresh, in a way that nobody has foreseen."""

    n_made = 0

    async def refresh(self, as_of: datetime) -> Materialised | None:
        StumblingMaterialiser.n_made += 1
        if StumblingMaterialiser.n_made == 1:
            raise ZeroDivisionError("planted")
        return await super().refresh(as_of)


class HangingLog(event_log.Client):
    """An event log that takes nothing."""

    async def append(self, events: Sequence[Event]) -> None:
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """An actor sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, tick_dsn: str) -> Settings:
    return Settings(
        home=tmp_path,
        symbols=("BTCUSDT", "ETHUSDT"),
        redis_url=redis_url,
        postgres_dsn=tick_dsn,
        replay_start=START,
        replay_wall_start=datetime.now(UTC),
        replay_speed=20.0,
    )


@pytest.fixture
async def tick_dsn(postgres_dsn: str, tick_store: TickStore) -> str:
    """The database of `tick_store`."""
    async with tick_store._client.connection("which_database") as (db, _):
        name = await db.fetchval("SELECT current_database()")
    return postgres_dsn.rsplit("/", 1)[0] + f"/{name}"


@pytest.fixture(autouse=True)
def no_pokes(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no cluster to look for the other actor in."""
    monkeypatch.setattr(online_features, "poke", lambda: None)


def market(settings: Settings, kind: type[SimulatedSource]) -> SimulatedSource:
    return kind(settings.symbols, settings.interval, settings.seed, settings.edge)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within 20 s")


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_unforeseen_error_does_not_end_the_feed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = market(settings, StumblingMarket)
    monkeypatch.setattr(market_feed, "open_source", lambda _: source)
    feed = MarketFeed(settings)
    feed._events = HangingLog("test")
    await until(lambda: feed._problem == "ZeroDivisionError: planted")
    await until(lambda: feed._newest_close is not None)
    assert (await feed.status())["problem"] == ""
    assert "the feed failed and begins again" in caplog.text
    await end(feed._loop)


class HolesUnknown(SimulatedSource):
    """Has nothing to say to whoever asks for a single bar, until it is `mended`."""

    is_mended = False
    n_asked = 0

    def read(self, symbol: str, start: datetime, end: datetime) -> Screened[Bars]:
        # The feed's own steps end after the start of the replay.
        if end <= START:
            self.n_asked += 1
            if not self.is_mended:
                raise SourceUnavailable("The market does not answer.")
        return super().read(symbol, start, end)


async def test_holes_are_filled_beside_the_newest_bars_and_do_not_hold_them_up(
    settings: Settings, tick_store: TickStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = HolesUnknown(settings.symbols, settings.interval, settings.seed, settings.edge)
    history = source.bars("BTCUSDT", START - timedelta(hours=40), START)
    await tick_store.write_bars(settings.market_id, history.between(end=START - timedelta(hours=20)))
    await tick_store.write_bars(settings.market_id, history.between(START - timedelta(hours=18)))
    monkeypatch.setattr(market_feed, "open_source", lambda _: source)
    feed = MarketFeed(settings)
    feed._events = HangingLog("test")
    await until(lambda: source.n_asked > 0)
    newest = feed._newest_close
    assert newest is not None
    await until(lambda: feed._newest_close is not None and feed._newest_close > newest + timedelta(hours=2))
    source.is_mended = True
    for _ in range(400):
        if len(await stored_history(tick_store, settings)) == len(history):
            break
        await asyncio.sleep(0.05)
    assert (await stored_history(tick_store, settings)).close.tolist() == history.close.tolist()
    assert (await feed.status())["problem"] == ""
    await end(feed._loop)


async def stored_history(tick_store: TickStore, settings: Settings) -> Bars:
    return await tick_store.read_bars(settings.market_id, "BTCUSDT", settings.interval, None, START)


async def test_an_event_log_that_hangs_does_not_hold_up_the_feed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_feed, "open_source", lambda _: market(settings, SimulatedSource))
    feed = MarketFeed(settings)
    feed._events = HangingLog("test")
    await until(lambda: feed._newest_close is not None)
    first = feed._newest_close
    assert first is not None
    await until(lambda: feed._newest_close is not None and feed._newest_close > first + timedelta(hours=3))
    assert len(feed._events._telling) > 1
    await end(feed._loop)


async def test_what_a_hanging_event_log_does_not_take_is_not_kept_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = HangingLog("test")
    event = Event("trial", "", START, {})
    for _ in range(event_log.MAX_TELLING):
        client.tell([event])
    assert "events were not written" not in caplog.text
    client.tell([event])
    assert "events were not written" in caplog.text
    assert len(client._telling) == event_log.MAX_TELLING
    for task in client._telling.copy():
        await end(task)
    assert client._telling == set()


async def test_an_unforeseen_error_does_not_end_the_features(
    settings: Settings,
    tick_store: TickStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = market(settings, SimulatedSource)
    for symbol in settings.symbols:
        bars = source.bars(symbol, START - timedelta(hours=40), START)
        await tick_store.write_bars(settings.market_id, bars)
    monkeypatch.setattr(StumblingMaterialiser, "n_made", 0)
    monkeypatch.setattr(online_features, "Materialiser", StumblingMaterialiser)
    features = OnlineFeatures(settings)
    await until(lambda: features._newest is not None)
    assert (await features.status()) == {
        "event_time": START.isoformat(),
        "problem": "",
        "expected": list(settings.symbols),
    }
    assert "the computing of features failed and begins again" in caplog.text
    await end(features._loop)
