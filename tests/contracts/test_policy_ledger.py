"""A policy in shadow on real servers: each close decided once, and an account that no death changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from levibot.errors import DataError, RegistryConflict
from levibot.market.bars import Bars, to_datetime
from levibot.serving.policy import Policy
from levibot.serving.policy_desk import PolicyDesk
from levibot.stores.model_files import ModelFolder
from levibot.stores.policy_ledger import PolicyRecord
from levibot.stores.reading import NO_OWN_VALUES, FeatureReading, Freshness
from levibot.stores.registry import Registry
from levibot.stores.ticks import TickStore
from levibot.trading.costs import Costs
from rl.export_onnx import export
from rl.game import Game
from rl.planted_market import SYMBOL, planted_market
from rl.policy import policy_spec
from rl.spaces import action_space, observation_space
from rl.traded_market import TradedMarket
from rl.trading_env import TradingEnv

pytestmark = pytest.mark.stores

MARKET, HOUR = "m", timedelta(hours=1)
AT = datetime(2024, 3, 1, 22, tzinfo=UTC)
RECORD = PolicyRecord(
    "AUSDT", AT, None, "v1.0.0", "w", 1.0, 2.0, {"long": 0.1 + 0.2}, {"a": None, "b": 0.3}, 1e6
)


@pytest.fixture(scope="module")
def market() -> TradedMarket:
    return planted_market(160, 0.002, 1, keeps_unscaled=True)


@pytest.fixture(scope="module")
def policy(market: TradedMarket, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """One that says every choice at times."""
    torch.manual_seed(3)
    module = policy_spec(observation_space(market), action_space("discrete")).build()
    with torch.no_grad():
        for weight in module.pi.parameters():
            weight.normal_(std=0.5)
    registry = Registry(ModelFolder(tmp_path_factory.mktemp("policies")))
    version = export(module, market, Game(), registry, {"market_id": MARKET}, seed=1, n_rows=300)
    return Policy.of(registry.load(version))


def bars_of(market: TradedMarket, rows: slice) -> Bars:
    """Rows of the market as bars, with highs and lows that hold them."""
    opened, close = market.fill[rows], market.mark[rows]
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    ts = market.closes_at[rows] - np.timedelta64(HOUR)
    return Bars(SYMBOL, HOUR, ts, opened, high, low, close, np.full(len(close), 1e4))


def reading_of(market: TradedMarket, policy: Policy, row: int) -> Mapping[str, FeatureReading]:
    assert market.unscaled is not None
    columns = {name: place for place, name in enumerate(policy.feature_names)}
    event_us = int(market.closes_at[row].astype("datetime64[us]").astype(np.int64))
    fresh = Freshness.FRESH, 1.0
    values = market.unscaled[row : row + 1]
    return {SYMBOL: FeatureReading(SYMBOL, *fresh, values, columns, event_us, fresh, NO_OWN_VALUES)}


def equities_of(market: TradedMarket, policy: Policy, history: Sequence[PolicyRecord]) -> list[float]:
    """What an account that follows these decisions has at each of them: bars between have no order."""
    row_of = {to_datetime(close): row for row, close in enumerate(market.closes_at)}
    wanted = {row_of[record.as_of]: record.position for record in history}
    first, last = min(wanted), max(wanted)
    account = policy.played_by.account(float(market.mark[first]))
    equity = {first: account.equity}
    for row in range(first, last):
        account.advance(wanted.get(row, np.nan), float(market.fill[row + 1]), float(market.mark[row + 1]))
        equity[row + 1] = account.equity
    return [equity[row] for row in sorted(wanted)]


async def test_the_first_decision_on_a_close_stands_and_a_repeat_adds_nothing(tick_store: TickStore) -> None:
    ledger = tick_store.policies
    other = replace(RECORD, position=-1.0, action=0.0)
    told = await asyncio.gather(*(ledger.decide(MARKET, [one]) for one in [RECORD, other] * 4))
    standing = await ledger.history(MARKET, "v1.0.0", "AUSDT")
    assert len(standing) == 1
    assert standing[0] in (RECORD, other)
    assert all(answer == standing for answer in told)
    # Another version, symbol, close or market is another decision.
    apart = [
        replace(RECORD, policy_version="v1.0.1"),
        replace(RECORD, symbol="B"),
        replace(RECORD, as_of=AT + HOUR, follows=AT),
    ]
    assert len(await ledger.decide(MARKET, apart)) == 3
    assert await ledger.decide("n", [RECORD]) == [RECORD]
    assert len(await ledger.history(MARKET, "v1.0.0", "AUSDT")) == 2


async def test_what_is_no_position_is_refused_and_nothing_of_its_batch_is_kept(tick_store: TickStore) -> None:
    with pytest.raises(DataError):
        await tick_store.policies.decide("p", [RECORD, replace(RECORD, symbol="B", position=1.5)])
    assert await tick_store.policies.history("p", "v1.0.0", "AUSDT") == []


async def test_the_desk_decides_and_earns_what_the_environment_says_whoever_dies(
    tick_store: TickStore, market: TradedMarket, policy: Policy
) -> None:
    env = TradingEnv.over(market, SYMBOL, Game())
    env.reset(seed=0)
    equity, n_orders = [policy.played_by.start_equity], set()
    desk = PolicyDesk(policy, MARKET, HOUR)
    n_rows = len(market.mark)
    for row in range(n_rows):
        reading = reading_of(market, policy, row)
        # Features may be there before their bar: nothing is decided at a price that is not stored.
        records, waiting = await desk.turn(tick_store, reading)
        assert not records
        assert "not stored" in waiting[SYMBOL]
        await tick_store.write_bars(MARKET, bars_of(market, slice(row, row + 1)))
        records, waiting = await desk.turn(tick_store, reading)
        assert not waiting
        (record,) = records
        assert record.as_of == to_datetime(market.closes_at[row])
        assert record.equity == equity[-1]
        assert await desk.turn(tick_store, reading) == ([], {})
        n_orders.add(record.position)
        if row + 1 < n_rows:
            equity.append(env.step(int(record.action))[4]["equity"])
        if row % 40 == 20:
            desk = PolicyDesk(policy, MARKET, HOUR)
    assert len(n_orders) == 3
    assert len(set(equity)) > n_rows // 2
    history = await tick_store.policies.history(MARKET, policy.version, SYMBOL)
    assert [record.equity for record in history] == equity
    assert desk.newest[SYMBOL] == history[-1]


async def test_an_absence_holds_what_was_held_and_two_desks_keep_one_account(
    tick_store: TickStore, market: TradedMarket, policy: Policy
) -> None:
    await tick_store.write_bars("twins", bars_of(market, slice(0, 60)))
    one, other = PolicyDesk(policy, "twins", HOUR), PolicyDesk(policy, "twins", HOUR)
    decided = (20, 21, 22, 50, 51)
    for row in decided:
        reading = reading_of(market, policy, row)
        await asyncio.gather(one.turn(tick_store, reading), other.turn(tick_store, reading))
        # Who came second to a close may learn of it only now.
        await asyncio.gather(one.turn(tick_store, reading), other.turn(tick_store, reading))
        assert one.newest == other.newest
    history = await tick_store.policies.history("twins", policy.version, SYMBOL)
    assert one.newest == {SYMBOL: history[-1]}
    assert [record.as_of for record in history] == [to_datetime(market.closes_at[row]) for row in decided]
    assert [record.equity for record in history] == equities_of(market, policy, history)


@pytest.mark.parametrize("n_missed", [1, 5])
async def test_a_desk_that_missed_closes_follows_who_decided_them(
    tick_store: TickStore, market: TradedMarket, policy: Policy, n_missed: int
) -> None:
    name = f"missed {n_missed}"
    await tick_store.write_bars(name, bars_of(market, slice(0, 100)))
    one, other = PolicyDesk(policy, name, HOUR), PolicyDesk(policy, name, HOUR)
    for row in range(20, 60):
        reading = reading_of(market, policy, row)
        is_missed = 30 <= row < 30 + n_missed
        for desk in (one,) if is_missed else (other, one):
            await desk.turn(tick_store, reading)
    history = await tick_store.policies.history(name, policy.version, SYMBOL)
    assert len(history) == 40
    # Orders of the missed closes matter: they are not all what was held already.
    assert len({record.position for record in history[9 : 10 + n_missed]}) > 1
    assert [record.equity for record in history] == equities_of(market, policy, history)
    assert one.newest == other.newest == {SYMBOL: history[-1]}


async def test_a_late_decision_on_an_older_close_is_refused(
    tick_store: TickStore, market: TradedMarket, policy: Policy
) -> None:
    await tick_store.write_bars("late", bars_of(market, slice(0, 100)))
    slow, quick = PolicyDesk(policy, "late", HOUR), PolicyDesk(policy, "late", HOUR)
    at = {row: reading_of(market, policy, row) for row in range(20, 24)}
    for desk in (slow, quick):
        await desk.turn(tick_store, at[20])
    await quick.turn(tick_store, at[22])
    before = await tick_store.policies.history("late", policy.version, SYMBOL)
    assert await slow.turn(tick_store, at[21]) == ([], {})
    assert slow.newest == quick.newest
    # Nor in the ledger itself, as where the slow one had read it before the quick one wrote.
    late = replace(before[0], as_of=to_datetime(market.closes_at[21]), follows=before[0].as_of)
    assert await tick_store.policies.decide("late", [late]) == []
    # Nor a newer one that does not know of the newest: its account is another one.
    unaware = replace(late, as_of=to_datetime(market.closes_at[23]))
    assert await tick_store.policies.decide("late", [unaware]) == []
    assert await tick_store.policies.decide("late", [replace(unaware, follows=None)]) == []
    assert await tick_store.policies.history("late", policy.version, SYMBOL) == before
    await slow.turn(tick_store, at[23])
    history = await tick_store.policies.history("late", policy.version, SYMBOL)
    assert [record.equity for record in history] == equities_of(market, policy, history)


@hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1))
async def test_desks_that_see_and_die_as_they_like_keep_the_one_account_of_the_ledger(
    tick_store: TickStore, market: TradedMarket, policy: Policy, seed: int
) -> None:
    rng, name = np.random.default_rng(seed), f"any {seed}"
    await tick_store.write_bars(name, bars_of(market, slice(0, 100)))
    desks = [PolicyDesk(policy, name, HOUR) for _ in range(3)]
    for row in range(20, 50):
        if rng.random() < 0.1:
            desks[rng.integers(3)] = PolicyDesk(policy, name, HOUR)
        # Each looks at this close, at the one before, or not at all.
        seen = [row - int(rng.integers(2)) for _ in desks]
        looks = [bool(rng.random() < 0.6) for _ in desks]
        await asyncio.gather(
            *(
                desk.turn(tick_store, reading_of(market, policy, at))
                for desk, at, is_looking in zip(desks, seen, looks, strict=True)
                if is_looking
            )
        )
    history = await tick_store.policies.history(name, policy.version, SYMBOL)
    assert [record.equity for record in history] == equities_of(market, policy, history)
    assert [record.follows for record in history[1:]] == [record.as_of for record in history[:-1]]


async def test_missing_features_and_unpriced_impact_are_said(
    tick_store: TickStore, market: TradedMarket, policy: Policy
) -> None:
    _, waiting = await PolicyDesk(policy, MARKET, HOUR).turn(tick_store, {})
    assert "no features online" in waiting[SYMBOL]
    played: Any = replace(policy.played_by, costs=Costs(impact_bps=5.0))
    with pytest.raises(RegistryConflict, match="impact of 5 bps"):
        PolicyDesk(replace(policy, played_by=played), MARKET, HOUR)
