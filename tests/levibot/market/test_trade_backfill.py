"""Holes in stored trade ids are asked of the exchange once, page by page."""

from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import SourceUnavailable
from levibot.market import trade_backfill
from levibot.market.intake import Account, Intake
from levibot.market.ticks import COLUMNS, Ticks
from levibot.market.trade_backfill import TradeBackfill
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

MARKET_ID, SYMBOLS = "m", ("BTCUSDT", "ETHUSDT")


def trades(first_id: int, end_id: int, symbol: str = "BTCUSDT") -> Ticks:
    ids = np.arange(first_id, end_id)
    return Ticks(
        symbol,
        np.datetime64("2024-08-09", "us") + ids * np.timedelta64(40, "ms"),
        60_000.0 + ids / 8,
        0.5 + ids / 16,
        ids,
        ids % 2 == 0,
    )


class Exchange:
    """Has the trades 1 to 9,999 of every symbol, but for those it lost; it notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.lost: set[int] = set()
        self.is_away = False

    async def trades_from(self, symbol: str, first_id: int, limit: int) -> Ticks:
        self.asked.append((symbol, first_id))
        if self.is_away:
            raise SourceUnavailable("The exchange does not answer.")
        rows = trades(first_id, 10_000, symbol)
        return rows.rows(~np.isin(rows.trade_id, list(self.lost))).rows(slice(0, limit))


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def intake(tick_store: TickStore) -> Intake:
    return Intake(tick_store, MARKET_ID)


async def store(intake: Intake, *ranges: tuple[int, int], symbol: str = "BTCUSDT") -> None:
    await intake.store.ticks.write(MARKET_ID, [trades(*span, symbol) for span in ranges])


async def assert_whole(intake: Intake, first_id: int, end_id: int, lost: set[int] | None = None) -> None:
    found = await intake.store.ticks.read(MARKET_ID, "BTCUSDT")
    expected = trades(first_id, end_id)
    expected = expected.rows(~np.isin(expected.trade_id, list(lost or ())))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


async def test_holes_are_filled_with_exactly_the_missing_trades(intake: Intake, exchange: Exchange) -> None:
    await store(intake, (10, 20), (25, 30), (2600, 2610))
    await store(intake, (5, 6), (7, 8), symbol="ETHUSDT")
    backfill = TradeBackfill(SYMBOLS)
    done = await backfill.fill(intake, exchange.trades_from, 20)
    assert done.account == Account(n_new=5 + 2570 + 1)
    assert (done.n_found, done.n_lacking, done.n_waiting) == (3, 0, 0)
    assert sorted(exchange.asked) == [
        ("BTCUSDT", 20),
        ("BTCUSDT", 30),
        ("BTCUSDT", 1030),
        ("BTCUSDT", 2030),
        ("ETHUSDT", 6),
    ]
    await assert_whole(intake, 10, 2610)


async def test_what_the_exchange_lost_is_asked_for_once(intake: Intake, exchange: Exchange) -> None:
    await store(intake, (10, 20), (25, 30))
    exchange.lost = {21, 22, 24}
    backfill = TradeBackfill(SYMBOLS)
    assert (await backfill.fill(intake, exchange.trades_from, 20)).n_lacking == 3
    exchange.asked.clear()
    await store(intake, (30, 40), (41, 50))
    done = await backfill.fill(intake, exchange.trades_from, 20)
    assert (done.n_found, exchange.asked) == (1, [("BTCUSDT", 40)])
    await assert_whole(intake, 10, 50, lost={21, 22, 24})


async def test_an_exchange_that_is_away_is_asked_again(intake: Intake, exchange: Exchange) -> None:
    await store(intake, (10, 20), (25, 30))
    backfill = TradeBackfill(SYMBOLS)
    exchange.is_away = True
    with pytest.raises(SourceUnavailable):
        await backfill.fill(intake, exchange.trades_from, 20)
    exchange.is_away = False
    assert (await backfill.fill(intake, exchange.trades_from, 20)).account.n_new == 5
    await assert_whole(intake, 10, 30)


async def test_requests_are_bounded_a_pass(intake: Intake, exchange: Exchange) -> None:
    await store(intake, *((n, n + 1) for n in range(1, 20, 2)))
    backfill = TradeBackfill(SYMBOLS)
    waiting = [(await backfill.fill(intake, exchange.trades_from, 4)).n_waiting for _ in range(3)]
    assert waiting == [5, 1, 0]
    await assert_whole(intake, 1, 20)


async def test_a_hole_that_is_too_long_is_given_up(
    intake: Intake, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trade_backfill, "LONGEST_HOLE", 50)
    await store(intake, (10, 20), (71, 80), (85, 90))
    done = await TradeBackfill(SYMBOLS).fill(intake, exchange.trades_from, 20)
    assert (done.n_found, done.n_lacking, exchange.asked) == (2, 51, [("BTCUSDT", 80)])


async def test_a_process_begins_with_the_newest_trades(
    intake: Intake, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trade_backfill, "RECENT_IDS", 20)
    await store(intake, (10, 20), (25, 50), (51, 60))
    assert (await TradeBackfill(SYMBOLS).fill(intake, exchange.trades_from, 20)).n_found == 1
    assert exchange.asked == [("BTCUSDT", 50)]
