"""Shadow accounts on real servers: every bar priced exactly once, whoever dies or comes second."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.members import prior_weights
from levibot.learning.weights import WeightState, updated
from levibot.market.bars import Panel
from levibot.stores.live_weights import HeldWeights
from levibot.stores.shadow import Earned
from levibot.stores.ticks import TickStore
from levibot.stores.weight_history import Known
from levibot.trading.costs import Costs
from levibot.trading.shadow import Book, Decision, Priced, price

pytestmark = pytest.mark.stores

MARKET = "m"
AT = datetime(2024, 3, 1, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)
SYMBOLS = ("AUSDT", "BUSDT")


def decision(as_of: datetime, symbol: str = "AUSDT", **positions: float) -> Decision:
    wanted = positions or {"trend": 0.5, "ensemble": 0.25}
    return Decision(symbol, as_of, "v1.0.0", "w", 0.012, wanted, {"regime": {"bull": 0.1 + 0.2}})


def bars(first: datetime, n: int, start: float = 100.0) -> Panel:
    """The second symbol has no bar in the first row."""
    ts = np.datetime64(first.replace(tzinfo=None), "us") + np.arange(n) * np.timedelta64(1, "h")
    level = start + np.arange(n, dtype=np.float64)[:, None] * np.ones(2)
    level[0, 1] = np.nan
    return Panel(SYMBOLS, HOUR, ts, level, level, level, level + 1.0, level)


def stepper(rows: Panel, stands_at: datetime):  # type: ignore[no-untyped-def]
    def step(book: Book, decisions: list[Decision]) -> Priced:
        return price(book, rows, stands_at, decisions, Costs())

    return step


async def advance(store: TickStore, rows: Panel, stands_at: datetime) -> Priced | None:
    end = rows.closes_at[-1].astype(datetime).replace(tzinfo=UTC)
    return await store.shadow.advance(MARKET, stands_at, end, stepper(rows, stands_at))


async def test_a_bar_is_priced_once_however_many_try(tick_store: TickStore) -> None:
    assert await tick_store.shadow.reach(MARKET) is None
    await tick_store.shadow.decide(MARKET, [decision(AT), decision(AT, "BUSDT"), decision(AT + HOUR)])
    assert await tick_store.shadow.reach(MARKET) == AT
    rows = bars(AT, 3)
    done = await asyncio.gather(*(advance(tick_store, rows, AT) for _ in range(4)))
    (priced,) = (one for one in done if one is not None)
    assert await tick_store.shadow.reach(MARKET) == priced.priced_to == AT + 3 * HOUR
    assert await tick_store.shadow_fills.read(MARKET, limit=100) != []
    assert len(await tick_store.shadow_fills.read(MARKET, limit=100)) == len(priced.fills)
    stands = await tick_store.shadow.book(MARKET)
    for name, account in priced.book.accounts.items():
        found = stands.accounts[name]
        assert found.units.tobytes() == account.units.tobytes()
        assert found.last_price.tobytes() == account.last_price.tobytes()
        assert (found.cash, found.equity) == (account.cash, account.equity)
    assert stands.days == priced.book.days
    assert {day.day for day in await tick_store.shadow.days(MARKET)} == {date(2024, 3, 1), date(2024, 3, 2)}
    assert await advance(tick_store, rows, AT) is None


async def test_pieces_give_the_accounts_of_the_whole_and_a_failure_leaves_nothing(
    tick_store: TickStore,
) -> None:
    wanted = [decision(AT + n * HOUR, trend=0.1 * n) for n in range(4)]
    rows = bars(AT, 4)
    whole = price(Book.empty(SYMBOLS), rows, AT, wanted, Costs())
    await tick_store.shadow.decide(MARKET, wanted)
    for n in range(4):
        at = AT + n * HOUR

        def broken(book: Book, decisions: list[Decision], n: int = n, at: datetime = at) -> Priced:
            done = price(book, rows.rows(slice(n, n + 1)), at, decisions, Costs())
            # Refused by the last table but one, when the fills are written already.
            days = tuple(replace(day, equity=np.inf) for day in done.days)
            return Priced(done.book, done.fills, days, done.priced_to)

        with pytest.raises(DataError):
            await tick_store.shadow.advance(MARKET, at, at + HOUR, broken)
        assert await tick_store.shadow.reach(MARKET) == at
        assert await advance(tick_store, rows.rows(slice(n, n + 1)), at) is not None
    assert await tick_store.shadow_fills.read(MARKET) == sorted(whole.fills, key=lambda f: f.ts, reverse=True)
    assert (await tick_store.shadow.book(MARKET)).days == whole.book.days


async def test_the_first_decision_stands_and_one_that_comes_too_late_is_kept_and_not_followed(
    tick_store: TickStore,
) -> None:
    shadow = tick_store.shadow
    first = decision(AT)
    assert await shadow.decide(MARKET, [first]) == 1
    assert await shadow.decide(MARKET, [decision(AT, trend=0.9), decision(AT + HOUR)]) == 1
    assert (await shadow.decisions(MARKET, AT, AT + HOUR)) == [first]
    await advance(tick_store, bars(AT, 1), AT)
    # Of the bar that is priced; and of the next one, which is not.
    assert await shadow.decide(MARKET, [decision(AT, "BUSDT"), decision(AT + HOUR, "BUSDT")]) == 2
    assert [(d.symbol, d.as_of) for d in await shadow.decisions(MARKET)] == [
        ("AUSDT", AT),
        ("AUSDT", AT + HOUR),
        ("BUSDT", AT + HOUR),
    ]
    async with tick_store._client.connection("late") as (db, _):
        late = await db.fetch("SELECT symbol, as_of FROM shadow_decisions WHERE NOT is_in_time")
    assert [tuple(row) for row in late] == [("BUSDT", AT)]
    with pytest.raises(DataError):
        await shadow.decide(MARKET, [replace(decision(AT + 2 * HOUR), no_trade_band=-1.0)])
    assert await shadow.decisions("other") == []


async def test_a_writer_of_decisions_waits_for_a_bar_that_is_being_priced(tick_store: TickStore) -> None:
    await tick_store.shadow.decide(MARKET, [decision(AT)])
    loop = asyncio.get_running_loop()
    written: list[asyncio.Task[int]] = []

    def step(book: Book, decisions: list[Decision]) -> Priced:
        # It begins now, while the lock is held, and sees the bar priced when it gets through.
        written.append(loop.create_task(tick_store.shadow.decide(MARKET, [decision(AT, "BUSDT")])))
        return price(book, bars(AT, 1), AT, decisions, Costs())

    assert await tick_store.shadow.advance(MARKET, AT, AT + HOUR, step) is not None
    assert await written[0] == 1
    assert [d.symbol for d in await tick_store.shadow.decisions(MARKET)] == ["AUSDT"]


def known_after(days: int) -> Known:
    members = ("trend", "strength")
    state = WeightState.beginning(members, prior_weights(members))
    for n in range(days):
        regime = np.array([0.2, 0.3, 0.5])
        state = updated(state, date(2024, 3, 1) + timedelta(days=n), np.array([0.01, -0.02 * n]), regime)
    weights = tuple(state.weights.tolist())
    regimes = {"bear": 0.2, "sideways": 0.3, "bull": 0.5}
    return Known(
        HeldWeights(state.as_of, members, weights, weights, "none", regimes, "prior", "v1.0.0"), state
    )


async def test_the_first_weights_of_a_day_stand_and_come_back_bit_for_bit(tick_store: TickStore) -> None:
    first, second = known_after(1), known_after(2)
    assert await tick_store.weights.append(MARKET, first)
    assert await tick_store.weights.append(MARKET, second)
    other = Known(replace(first.held, abstained="other"), first.state)
    assert not await tick_store.weights.append(MARKET, other)
    newest = await tick_store.weights.newest(MARKET, 5)
    assert [known.held for known in newest] == [second.held, first.held]
    assert newest[0].state.to_json() == second.state.to_json()
    assert [k.held for k in await tick_store.weights.newest(MARKET, 5, before=date(2024, 3, 2))] == [
        first.held
    ]
    with pytest.raises(DataError, match="learned from no day"):
        await tick_store.weights.append(MARKET, known_after(0))


async def test_what_was_earned_belongs_to_the_regime_in_which_each_day_began(tick_store: TickStore) -> None:
    await tick_store.shadow.decide(MARKET, [decision(AT, trend=0.5)])
    await advance(tick_store, bars(AT, 30), AT)
    await tick_store.weights.append(MARKET, known_after(1))
    days = await tick_store.shadow.days(MARKET)
    assert [day.day.day for day in days] == [1, 2, 3]
    earned = await tick_store.shadow.earned(MARKET)
    gained = [day.equity - day.opened_equity for day in days]
    # Nothing is known at the end of February 29th and of March 2nd.
    assert earned == [
        Earned("trend", "bull", 1, pytest.approx(gained[1])),
        Earned("trend", "unknown", 2, pytest.approx(gained[0] + gained[2])),
    ]
