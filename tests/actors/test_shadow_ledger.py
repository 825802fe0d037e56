"""The shadow ledger in this process: the arms of a canary are priced beside the market's own accounts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from actors.shadow_ledger import ShadowLedger
from levibot.errors import StoreError
from levibot.market.bars import Bars
from levibot.serving.arms import CANARY, CHAMPION
from levibot.settings import Settings
from levibot.stores.canaries import CanaryStore, book_of
from levibot.stores.canary_setting import CanarySetting
from levibot.stores.ticks import TickStore
from levibot.trading.shadow import Decision

pytestmark = pytest.mark.stores

SYMBOL, HOUR = "BTCUSDT", timedelta(hours=1)
AT = datetime(2022, 3, 1, 12, tzinfo=UTC)
SETTING = CanarySetting("v1.1.0", 0.1)
N_BARS = 6


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """An actor sets up the logs of its process; this process has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def settings(tick_store: TickStore, postgres_dsn: str, tmp_path: Path) -> Settings:
    """A market whose clock stands after its last bar, with what is decided at each close."""
    async with tick_store._client.connection("which_database") as (db, _):
        name = await db.fetchval("SELECT current_database()")
    settings = Settings(
        home=tmp_path,
        redis_url="redis://127.0.0.1:1",
        postgres_dsn=f"{postgres_dsn.rsplit('/', 1)[0]}/{name}",
        symbols=(SYMBOL,),
        replay_start=AT + N_BARS * HOUR,
        replay_wall_start=datetime.now(UTC),
        replay_speed=1e-12,
    )
    level = 100.0 * 1.01 ** np.arange(N_BARS)
    close = level * 1.01
    ts = np.datetime64(AT.replace(tzinfo=None), "us") + np.arange(N_BARS) * np.timedelta64(1, "h")
    await tick_store.write_bars(
        settings.market_id, Bars(SYMBOL, HOUR, ts, level, close, level, close, np.ones(N_BARS))
    )
    await tick_store.canaries.begin(settings.market_id, SETTING, AT)
    books = {settings.market_id: ("ensemble", 0.5)}
    books |= {
        book_of(settings.market_id, SETTING, arm): (arm, position)
        for arm, position in ((CHAMPION, 0.5), (CANARY, 1.0))
    }
    for book, (account, position) in books.items():
        decisions = [
            Decision(SYMBOL, AT + n * HOUR, "v1", "w", 0.0, {account: position}, {}) for n in range(N_BARS)
        ]
        await tick_store.shadow.decide(book, decisions)
    return settings


@pytest.fixture
async def ledger(settings: Settings) -> AsyncIterator[ShadowLedger]:
    ledger = ShadowLedger(settings)
    yield ledger
    ledger._loop.cancel()
    with suppress(asyncio.CancelledError):
        await ledger._loop


async def until_priced(ticks: TickStore, book: str) -> None:
    for _ in range(300):
        if await ticks.shadow.reach(book) == AT + N_BARS * HOUR:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{book} was not priced within 15 s")


async def test_both_arms_have_the_markets_bars_and_costs(
    settings: Settings, ledger: ShadowLedger, tick_store: TickStore
) -> None:
    books = [settings.market_id, *(book_of(settings.market_id, SETTING, arm) for arm in (CHAMPION, CANARY))]
    for book in books:
        await until_priced(tick_store, book)
    accounts = [next(iter((await tick_store.shadow.book(book)).accounts.values())) for book in books]
    # What the champion's arm wants is what the ensemble wants: to the last bit the same account.
    assert accounts[1].equity == accounts[0].equity
    assert accounts[2].equity > accounts[0].equity
    equity = await tick_store.canaries.equity(settings.market_id, SETTING)
    assert len(equity.at) == N_BARS
    assert equity.champion[-1] == accounts[1].equity
    assert equity.canary[-1] == accounts[2].equity
    assert (await ledger.status())["equity"].keys() == {"ensemble"}


class TestInTrouble:
    """What becomes of a canary is nothing to the accounts of the market."""

    @pytest.fixture(params=["it has ended", "it cannot be read"])
    async def settings(
        self,
        request: pytest.FixtureRequest,
        settings: Settings,
        tick_store: TickStore,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Settings:
        if request.param == "it has ended":
            await tick_store.canaries.end(settings.market_id, AT, "errors")
        else:

            async def newest(self: CanaryStore, market_id: str) -> None:
                raise StoreError("The table is torn.")

            monkeypatch.setattr(CanaryStore, "newest", newest)
        return settings

    async def test_the_market_is_priced_and_the_arms_are_not(
        self, settings: Settings, ledger: ShadowLedger, tick_store: TickStore
    ) -> None:
        await until_priced(tick_store, settings.market_id)
        await asyncio.sleep(0.3)
        assert (await tick_store.canaries.equity(settings.market_id, SETTING)).at == []
        assert not ledger._loop.done()
