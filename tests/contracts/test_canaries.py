"""Canaries on real servers: begun once, ended once, and both arms' accounts and losses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import Bars
from levibot.serving.arms import CANARY, CHAMPION, Arm
from levibot.serving.canary_report import read_report
from levibot.serving.shadow_pricing import ShadowPricing
from levibot.stores.canaries import CanaryAnswer, book_of
from levibot.stores.canary_setting import CanaryLimits, CanarySetting
from levibot.stores.ticks import TickStore
from levibot.trading.backtest import START_EQUITY
from levibot.trading.shadow import Decision

pytestmark = pytest.mark.stores

MARKET, SYMBOL, HOUR = "m", "AUSDT", timedelta(hours=1)
AT = datetime(2022, 3, 1, 22, tzinfo=UTC)
TENTH = CanarySetting("v1.1.0", 0.1, limits=CanaryLimits(error_share=0.25))


def decision(arm: Arm, n: int, position: float, up: float, horizon_bars: int = 2) -> Decision:
    version = "v1.0.0" if arm == CHAMPION else "v1.1.0"
    blend = {"probability_up": up, "horizon_bars": horizon_bars}
    return Decision(SYMBOL, AT + n * HOUR, version, "w", 0.0, {arm: position}, blend)


async def write_bars(store: TickStore, opens: Sequence[float]) -> None:
    """The first opens at AT, where the first decision fills; each closes where the next one opens."""
    level = np.array(opens)
    close = np.append(level[1:], level[-1])
    ts = np.datetime64(AT.replace(tzinfo=None), "us") + np.arange(len(level)) * np.timedelta64(1, "h")
    high, low = np.maximum(level, close), np.minimum(level, close)
    await store.write_bars(MARKET, Bars(SYMBOL, HOUR, ts, level, high, low, close, np.ones(len(level))))


async def test_a_canary_begins_once_and_goes_on_after_an_operators_end_but_not_after_a_broken_limit(
    tick_store: TickStore,
) -> None:
    store = tick_store.canaries
    assert await store.newest(MARKET) is None
    assert await store.end(MARKET, AT, "configuration") is None
    begun = await asyncio.gather(*(store.begin(MARKET, TENTH, AT + n * HOUR) for n in range(4)))
    assert {run.began_at for run in begun} == {begun[0].began_at}
    began_at = begun[0].began_at
    half = replace(TENTH, share=0.5)
    assert await store.begin(MARKET, half, AT + 5 * HOUR) == replace(begun[0], setting=half)
    ended = await store.end(MARKET, AT + 6 * HOUR, "configuration")
    assert ended is not None
    assert (ended.ended_at, ended.ended_why, ended.is_rolled_back) == (AT + 6 * HOUR, "configuration", False)
    assert (await store.begin(MARKET, half, AT + 7 * HOUR)).ended_at is None
    numbers = {"n_failed": 3, "limit": 0.1 + 0.2}
    for why in ("errors", "latency"):
        await store.end(MARKET, AT + 8 * HOUR, why, setting=half, numbers=numbers)  # type: ignore[arg-type]
    again = await store.begin(MARKET, half, AT + 9 * HOUR)
    assert (again.ended_why, again.ended_at, again.numbers) == ("errors", AT + 8 * HOUR, numbers)
    assert again.is_rolled_back
    assert again.began_at == began_at
    other = await store.begin(MARKET, replace(half, attempt=2), AT + 9 * HOUR)
    assert (other.ended_at, other.began_at) == (None, AT + 9 * HOUR)
    assert await store.newest(MARKET) == other
    assert await store.newest("another") is None


async def test_one_runs_at_a_time(tick_store: TickStore) -> None:
    store = tick_store.canaries
    await store.begin(MARKET, TENTH, AT)
    await store.begin("another", TENTH, AT)
    await store.begin(MARKET, replace(TENTH, version="v1.2.0"), AT + HOUR)
    assert await store.end(MARKET, AT, "errors", setting=replace(TENTH, attempt=2)) is None
    async with tick_store._client.connection("look") as (db, _):
        rows = await db.fetch("SELECT market_id, version, ended_why FROM canaries ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [
        ("another", "v1.1.0", None),
        ("m", "v1.1.0", "configuration"),
        ("m", "v1.2.0", None),
    ]


async def test_the_first_of_a_bar_stands_and_the_newest_come_back_in_order(tick_store: TickStore) -> None:
    store = tick_store.canaries
    await store.begin(MARKET, TENTH, AT)
    answers = [
        CanaryAnswer(AT + n * HOUR, "failed" if n == 1 else "answered", "Late." if n == 1 else "", took)
        for n, took in enumerate((0.1, None, 0.3))
    ]
    for answer in [*answers, replace(answers[0], outcome="failed")]:
        await store.note(MARKET, TENTH, answer)
    assert await store.answers(MARKET, TENTH, 10) == answers
    assert await store.answers(MARKET, TENTH, 2) == answers[1:]
    assert await store.counts(MARKET, TENTH) == {"answered": 2, "failed": 1}
    assert await store.answers(MARKET, replace(TENTH, attempt=2), 10) == []
    with pytest.raises(DataError):
        await store.note(MARKET, TENTH, replace(answers[0], as_of=AT - HOUR, latency_s=-1.0))


async def test_each_arm_is_priced_on_the_markets_bars_and_the_market_itself_is_not_touched(
    tick_store: TickStore,
) -> None:
    await write_bars(tick_store, [100.0, 110.0, 110.0, 99.0, 99.0])
    await tick_store.canaries.begin(MARKET, TENTH, AT)
    wanted = {CHAMPION: [1.0, 0.0, 0.0, 0.0], CANARY: [0.0, 0.0, 1.0, 1.0]}
    for arm, positions in wanted.items():
        book = book_of(MARKET, TENTH, arm)
        await tick_store.shadow.decide(book, [decision(arm, n, p, 0.5) for n, p in enumerate(positions)])
        pricing = ShadowPricing(tick_store, MARKET, (SYMBOL,), HOUR, book_id=book)
        assert await pricing.turn(AT + 4 * HOUR) is not None
        assert await pricing.turn(AT + 4 * HOUR) is None
        priced = await tick_store.shadow.book(book)
        assert list(priced.accounts) == [arm]
    equity = await tick_store.canaries.equity(MARKET, TENTH)
    assert equity.at == [AT + n * HOUR for n in (1, 2, 3, 4)]
    # Up 10 % less two sides of costs; and down 10 %.
    assert equity.champion[-1] == pytest.approx(1.1 * START_EQUITY, rel=0.005)
    assert equity.canary[:2] == pytest.approx([START_EQUITY] * 2)
    assert equity.canary[-1] == pytest.approx(0.9 * START_EQUITY, rel=0.005)
    assert (
        equity.canary[-1]
        == (await tick_store.shadow.book(book_of(MARKET, TENTH, CANARY))).accounts[CANARY].equity
    )
    report = await read_report(tick_store, MARKET, HOUR)
    assert report is not None
    assert (report.champion, report.priced_to, report.pnl.n) == ("v1.0.0", AT + 4 * HOUR, 4)
    assert report.pnl.canary == pytest.approx(-0.1, abs=0.005)
    assert report.drawdown == pytest.approx(0.1, abs=0.005)
    assert await tick_store.shadow.reach(MARKET) is None
    assert await tick_store.shadow.days(MARKET) == []


async def test_losses_are_of_closes_a_horizon_apart_whose_outcome_is_known(tick_store: TickStore) -> None:
    # From the open after a close to the one two bars later: up at 0, down at 2, unknown at 4.
    await write_bars(tick_store, [100.0, 50.0, 101.0, 99.0, 90.0])
    run = await tick_store.canaries.begin(MARKET, TENTH, AT)
    for arm, up in ((CHAMPION, 0.75), (CANARY, 0.5)):
        said = [decision(arm, n, 0.0, up + n / 100.0) for n in range(5)]
        await tick_store.shadow.decide(book_of(MARKET, TENTH, arm), said)
    losses = await tick_store.canaries.losses(MARKET, run, HOUR)
    assert losses.at == [AT, AT + 2 * HOUR]
    np.testing.assert_allclose(losses.champion, [0.25**2, 0.77**2])
    np.testing.assert_allclose(losses.canary, [0.5**2, 0.52**2])


async def test_two_that_mean_different_horizons_are_not_compared(tick_store: TickStore) -> None:
    await write_bars(tick_store, [100.0, 50.0, 101.0, 300.0, 90.0])
    run = await tick_store.canaries.begin(MARKET, TENTH, AT)
    for arm, horizon_bars in ((CHAMPION, 2), (CANARY, 1)):
        book = book_of(MARKET, TENTH, arm)
        await tick_store.shadow.decide(book, [decision(arm, 0, 0.0, 0.5, horizon_bars)])
    assert (await tick_store.canaries.losses(MARKET, run, HOUR)).at == []
