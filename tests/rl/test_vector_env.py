"""Many accounts are as many scalar environments, in one call and without garbage."""

from __future__ import annotations

import tracemalloc
from functools import partial
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rl
from levibot.errors import UsageError
from levibot.settings import Settings
from rl.game import Episode, Game
from rl.reward import Reward
from rl.traded_market import TradedMarket
from rl.trading_env import TradingEnv
from rl.vector_env import TradingVectorEnv
from tests.rl.conftest import FEATURES, SYMBOLS, MakeMarket

N, N_MANY = 5, 20_000


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    actions=st.sampled_from(["discrete", "continuous"]),
    objective=st.sampled_from(["log_return", "differential_sharpe"]),
    drawdown_penalty=st.sampled_from([0.0, 0.3]),
    length_bars=st.integers(1, 9),
    random_start=st.booleans(),
    band=st.sampled_from([0.0, 0.012]),
    seed=st.integers(0, 2**31),
)
def test_a_step_is_that_of_as_many_scalar_environments(
    market: TradedMarket,
    actions: Any,
    objective: Any,
    drawdown_penalty: float,
    length_bars: int,
    random_start: bool,
    band: float,
    seed: int,
) -> None:
    """Observations, rewards and ends are the same bits, through the ends of episodes and a second reset."""
    game = Game(
        actions,
        reward=Reward(objective, drawdown_penalty=drawdown_penalty),
        # Where two bars in a row lose a little, an account is bankrupt: ends of both kinds are met.
        episode=Episode(length_bars, random_start=random_start, ruin_share=0.997),
        no_trade_band=band,
    )
    envs = TradingVectorEnv.over(market, N, game)
    scalar = SyncVectorEnv(
        [partial(TradingEnv.over, market, SYMBOLS[i % 2], game) for i in range(N)],
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    assert envs.observation_space == scalar.observation_space
    assert envs.action_space == scalar.action_space
    scalar.action_space.seed(seed)
    for seeded in (seed, None):
        assert envs.reset(seed=seeded)[0].tobytes() == scalar.reset(seed=seeded)[0].tobytes()
        for _ in range(25):
            said = scalar.action_space.sample()
            ours, theirs = envs.step(said), scalar.step(said)
            for mine, other in zip(ours[:4], theirs[:4], strict=True):
                assert mine.dtype == other.dtype
                assert mine.tobytes() == other.tobytes()
            assert envs.equity.tolist() == theirs[4]["equity"].tolist()


def test_both_kinds_of_ends_are_met_and_the_next_step_begins_anew(make_market: MakeMarket) -> None:
    market = make_market(np.array([100.0, 100.0, 108.0, 116.0, 125.0, 126.0]))
    envs = TradingVectorEnv.over(market, 2, Game(episode=Episode(ruin_share=0.8)))
    first, _ = envs.reset(seed=0)
    rows = [envs.step(np.array([0, 2])) for _ in range(6)]
    bankrupt, at_end = (np.array([row[k] for row in rows]) for k in (2, 3))
    assert bankrupt[:, 0].tolist() == [False, False, False, True, False, False]
    assert at_end[:, 1].tolist() == [False, False, False, False, True, False]
    assert rows[4][0][0].tobytes() == first[0].tobytes()
    assert rows[5][0][1].tobytes() == first[1].tobytes()
    assert rows[4][1][0] == rows[5][1][1] == 0.0


def test_gymnasium_makes_it_by_its_name() -> None:
    envs = gymnasium.make_vec(
        rl.NAME,
        4,
        symbols=SYMBOLS,
        start="2020-06-01",
        end="2020-06-10",
        source=Settings.load(source="simulated", symbols=SYMBOLS, seed=3),
        features=FEATURES,
    )
    assert isinstance(envs, TradingVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.reset(seed=1)[0].shape == (4, len(FEATURES) + 4)


def step_bytes(envs: TradingVectorEnv, steps: int) -> float:
    """The most memory of a step, the median of so many: now and then the process takes some of its own."""
    actions = np.full(envs.num_envs, 2)
    envs.reset(seed=0)
    envs.step(actions)
    most: list[int] = []
    tracemalloc.start()
    for _ in range(steps):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        envs.step(actions)
        most.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    return median(most)


def test_a_step_without_copies_allocates_nothing_that_grows_with_the_accounts(market: TradedMarket) -> None:
    game = Game(episode=Episode(20, random_start=True))
    in_place, copied = (TradingVectorEnv.over(market, N_MANY, game, copy=copy) for copy in (False, True))
    # Even one flag an account would be more.
    assert step_bytes(in_place, 50) < N_MANY
    assert step_bytes(copied, 50) > N_MANY * len(in_place.observation_names) * 4
    assert in_place.step(np.full(N_MANY, 1))[0] is in_place.step(np.full(N_MANY, 1))[0]


def test_what_was_returned_stays_as_it_was(market: TradedMarket) -> None:
    envs = TradingVectorEnv.over(market, 3)
    envs.reset(seed=0)
    seen, rewards, *_ = envs.step(np.array([0, 1, 2]))
    before = seen.copy(), rewards.copy()
    envs.step(np.array([2, 2, 2]))
    assert seen.tobytes() == before[0].tobytes()
    assert rewards.tobytes() == before[1].tobytes()


def test_the_rows_that_are_shared_cannot_be_written(market: TradedMarket) -> None:
    shared = (market.known, market.fill, market.mark, market.funding_rate, market.closes_at, market.begins)
    for array in (*shared, market.columns(Game()).quotes):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]


def test_what_cannot_be_stepped_is_refused(market: TradedMarket) -> None:
    envs = TradingVectorEnv.over(market, 3)
    with pytest.raises(UsageError, match="Call reset first"):
        envs.step(np.ones(3, dtype=np.int64))
    with pytest.raises(UsageError, match="2 seeds are given for 3 accounts"):
        envs.reset(seed=[1, 2])
    envs.reset(seed=0)
    with pytest.raises(UsageError, match="2 actions are given for 3 accounts"):
        envs.step(np.ones(2, dtype=np.int64))
    with pytest.raises(UsageError, match=r"Action 1 is 7: it must be 0, 1 or 2"):
        envs.step(np.array([0, 7, 1]))
    with pytest.raises(UsageError, match="there must be at least 1"):
        TradingVectorEnv.over(market, 0)
