"""Live weights are the backtest's weights: the same days give the same weights, whoever dies on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levibot.errors import NotReady
from levibot.learning.ensemble_seed import EnsembleSeed, publish_seed, read_seed
from levibot.learning.market_days import market_days
from levibot.learning.members import prior_weights
from levibot.learning.router import Router, RouterParameters, fit_router, router_features
from levibot.learning.weights import WeightState
from levibot.market.bars import FloatArray, Panel, to_datetime
from levibot.market.simulator import SimulatedSource
from levibot.serving.weight_keeping import WeightKeeping, carried, returns_of
from levibot.stores.live_weights import KEY, LiveWeights
from levibot.stores.model_files import ModelFolder
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore
from levibot.trading.allocation import allocate, on_days, regimes_at
from levibot.trading.shadow import Book, Day, Decision, Priced

pytestmark = pytest.mark.stores

MARKET, SYMBOLS = "m", ("BTCUSDT", "ETHUSDT")
STEP = timedelta(hours=4)
START = datetime(2020, 1, 1, tzinfo=UTC)
# The model is made after so many days, and then serves.
TRAINED_DAYS, LIVE_DAYS = 260, 70
TRAIN_END = START + timedelta(days=TRAINED_DAYS)
MEMBERS = ("trend", "strength", "lightgbm")
MANIFEST = {"training": {"kinds": ["lightgbm"]}, "train_end": TRAIN_END.isoformat()}
ONE_DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def panel() -> Panel:
    source = SimulatedSource(SYMBOLS, STEP, seed=3, edge=0.03)
    end = TRAIN_END + LIVE_DAYS * ONE_DAY
    return Panel.align({symbol: source.bars(symbol, START, end) for symbol in SYMBOLS})


@pytest.fixture(scope="module")
def earned() -> FloatArray:
    """(D, M) net returns of the live days."""
    return np.random.default_rng(1).normal([0.004, 0.0, -0.002], 0.01, (LIVE_DAYS, 3))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(ModelFolder(tmp_path / "models"))
    registry.publish(MANIFEST, {"model.txt": b"tree\n"})
    return registry


@pytest.fixture
def ensembles(tmp_path: Path) -> Registry:
    return Registry(ModelFolder(tmp_path / "ensembles"))


@pytest.fixture
async def live(redis_url: str) -> AsyncIterator[LiveWeights]:
    client = open_redis(redis_url, timeout_s=2.0)
    yield LiveWeights(client)
    await client.delete(KEY)
    await client.aclose()


@pytest.fixture
async def ticks(tick_store: TickStore, panel: Panel) -> TickStore:
    source = SimulatedSource(SYMBOLS, STEP, seed=3, edge=0.03)
    end = to_datetime(panel.closes_at[-1])
    await tick_store.write_many(MARKET, [source.bars(symbol, START, end) for symbol in SYMBOLS])
    return tick_store


async def earn(ticks: TickStore, returns: FloatArray, first: int, last: int) -> None:
    """Have the accounts go through the days [first, last): their equity is what the returns say."""
    shadow = ticks.shadow
    await shadow.decide(MARKET, [Decision("BTCUSDT", TRAIN_END, "v1.0.0", "w", 0.0, {"trend": 0.0}, {})])
    days = []
    for column, member in enumerate(MEMBERS):
        levels = 1e6 * np.cumprod(np.concatenate(([1.0], 1.0 + returns[:, column])))
        days += [
            Day(member, TRAIN_END.date() + n * ONE_DAY, float(levels[n]), float(levels[n + 1]))
            for n in range(first, last)
        ]
    stands_at = TRAIN_END + first * ONE_DAY

    def step(book: Book, decisions: list[Decision]) -> Priced:
        return Priced(book, (), tuple(days), TRAIN_END + last * ONE_DAY)

    assert await shadow.advance(MARKET, stands_at, stands_at + ONE_DAY, step) is not None


def keeper(ticks: TickStore, live: LiveWeights, registry: Registry, ensembles: Registry) -> WeightKeeping:
    return WeightKeeping(ticks, live, registry, ensembles, market_id=MARKET, symbols=SYMBOLS, interval=STEP)


def backtest_weights(panel: Panel, earned: FloatArray) -> FloatArray:
    """(D, M) that a report holds on each live day."""
    days = TRAIN_END.date() + np.arange(LIVE_DAYS) * ONE_DAY
    allocation = allocate(
        MEMBERS, days.astype("datetime64[D]"), earned, market_days(panel), [TRAIN_END], seed=0
    )
    return allocation.ensemble


async def test_live_weights_are_those_of_the_backtest_whenever_the_keeper_dies(
    ticks: TickStore,
    live: LiveWeights,
    registry: Registry,
    ensembles: Registry,
    panel: Panel,
    earned: FloatArray,
) -> None:
    with pytest.raises(NotReady, match="none is active"):
        await keeper(ticks, live, registry, ensembles).turn(TRAIN_END)
    registry.activate("v1.0.0", "first")
    (first,) = await keeper(ticks, live, registry, ensembles).turn(TRAIN_END)
    assert (first.as_of, first.basis) == (None, "prior")
    assert await live.read(MARKET) == (first,)
    expected = backtest_weights(panel, earned)
    at = 0
    for until in (1, 2, 30, LIVE_DAYS):
        await earn(ticks, earned, at, until)
        now = TRAIN_END + until * ONE_DAY + timedelta(hours=1)
        # Another keeper each time, as after a kill; and twice: a repeat learns nothing anew.
        for _ in range(2):
            held = await keeper(ticks, live, registry, ensembles).turn(now)
        assert held[0].as_of == TRAIN_END.date() + (until - 1) * ONE_DAY
        assert await live.read(MARKET) == held
        at = until
    history = await ticks.weights.newest(MARKET, 1_000)
    assert len(history) == LIVE_DAYS
    found = np.array([known.held.weights for known in history[::-1]])
    # What a day has taught is held on the next one.
    np.testing.assert_allclose(found[:-1], expected[1:], rtol=0.0, atol=1e-12)
    assert np.abs(found[-1] - prior_weights(MEMBERS)).sum() > 0.01
    regimes = on_days(
        market_days(panel).day,
        regimes_at(market_days(panel), [TRAIN_END]),
        np.array([known.held.as_of for known in history], dtype="datetime64[D]"),
    )
    told = [[known.held.regime[name] for name in ("bear", "sideways", "bull")] for known in history]
    np.testing.assert_allclose(told, regimes, atol=1e-12)
    assert {known.held.abstained for known in history} == {"No router was trained for v1.0.0."}
    # Redis lost everything: it is told again.
    await live._client.delete(KEY)
    assert await keeper(ticks, live, registry, ensembles).turn(now) == await live.read(MARKET)


@pytest.fixture
def router(panel: Panel) -> Router:
    """One that leans: sixty days each, what did best lately does best next."""
    market = market_days(panel)
    regimes = regimes_at(market, [START + 200 * ONE_DAY])
    turns = np.where(np.arange(len(market)) // 60 % 2, 0.02, -0.02)[:, None]
    winners = turns * [1.0, -1.0, 0.0] + np.random.default_rng(2).normal(0.0, 0.01, (len(market), 3))
    names, features = router_features(market, regimes, MEMBERS, winners)
    bold = RouterParameters(trees=20, min_rows=60, min_skill=1.0)
    fitted = fit_router(MEMBERS, names, features, winners, seed=1, parameters=bold)
    assert not fitted.abstains
    return fitted


async def test_a_walk_that_ends_on_a_running_market_gives_its_router_and_no_weights(
    ticks: TickStore,
    live: LiveWeights,
    registry: Registry,
    ensembles: Registry,
    router: Router,
    earned: FloatArray,
) -> None:
    registry.activate("v1.0.0", "first")
    running = keeper(ticks, live, registry, ensembles)
    await earn(ticks, earned, 0, 40)
    before = (await running.turn(TRAIN_END + 40 * ONE_DAY))[0]
    assert before.abstained == "No router was trained for v1.0.0."
    walked = WeightState.beginning(MEMBERS, np.array([0.8, 0.1, 0.1]))
    publish_seed(ensembles, "v1.0.0", EnsembleSeed(walked, router))
    assert (await running.turn(TRAIN_END + 40 * ONE_DAY))[0] == before
    await earn(ticks, earned, 40, 41)
    after = (await running.turn(TRAIN_END + 41 * ONE_DAY))[0]
    assert (after.abstained, after.basis) == ("", "prior")
    assert after.routed != after.weights
    # A day moves the weights by 2 % at most: they went on from where they were.
    assert np.abs(np.subtract(after.weights, before.weights)).sum() <= 0.02 + 1e-12


async def test_a_walk_s_weights_begin_and_its_router_leans_or_says_why_not(
    ticks: TickStore,
    live: LiveWeights,
    registry: Registry,
    ensembles: Registry,
    panel: Panel,
    router: Router,
    earned: FloatArray,
) -> None:
    market = market_days(panel)
    weights = replace(
        WeightState.beginning(MEMBERS, prior_weights(MEMBERS)), weights=np.array([0.5, 0.3, 0.2])
    )
    publish_seed(ensembles, "v1.0.0", EnsembleSeed(weights, router))
    again = read_seed(ensembles, "v1.0.0")
    assert again is not None
    assert again.weights.to_json() == weights.to_json()
    registry.activate("v1.0.0", "first")
    (first,) = await keeper(ticks, live, registry, ensembles).turn(TRAIN_END)
    assert (first.basis, first.weights) == ("walk-forward", (0.5, 0.3, 0.2))
    await earn(ticks, earned, 0, 40)
    newest, _ = await keeper(ticks, live, registry, ensembles).turn(TRAIN_END + 40 * ONE_DAY)
    assert newest.abstained == ""
    # The very numbers that a report would lean by.
    days = np.array([TRAIN_END.date() + n * ONE_DAY for n in range(40)], dtype="datetime64[D]")
    rows = on_days(days, earned[:40], market.day)
    _, known = router_features(market, regimes_at(market, [TRAIN_END]), MEMBERS, rows)
    row = on_days(market.day, known, days[-1:])
    np.testing.assert_allclose(
        newest.routed, router.weights(row, np.array(newest.weights))[0], rtol=0.0, atol=1e-12
    )
    assert newest.routed != newest.weights
    # Another model without a router: the weights go on, the router is silent.
    registry.publish(MANIFEST | {"training": {"kinds": ["lightgbm", "lstm"]}}, {"model.txt": b"t\n"})
    changed = registry.versions()[-1].version
    registry.activate(changed, "second")
    after, _ = await keeper(ticks, live, registry, ensembles).turn(TRAIN_END + 40 * ONE_DAY)
    assert after.members == (*MEMBERS, "lstm")
    assert after.abstained.startswith("The members have changed")
    history = await ticks.weights.newest(MARKET, 1)
    np.testing.assert_allclose(after.weights, carried(history[0].state, after.members).weights)


def test_a_day_without_bars_earned_nothing_and_one_before_the_account_is_not_known() -> None:
    day = date(2024, 1, 1)
    said: list[Any] = [Day("trend", day, 100.0, 110.0), Day("trend", day + 3 * ONE_DAY, 110.0, 99.0)]
    said.append(Day("strength", day + 2 * ONE_DAY, 100.0, 100.0))
    days, returns = returns_of(said, ("trend", "strength", "lstm"), day + 3 * ONE_DAY)
    assert days == [day + n * ONE_DAY for n in range(4)]
    np.testing.assert_allclose(
        returns,
        [[0.1, np.nan, np.nan], [0.0, np.nan, np.nan], [0.0, 0.0, np.nan], [-0.1, 0.0, np.nan]],
        atol=1e-12,
    )
