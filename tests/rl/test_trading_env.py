"""The scalar environment: gymnasium's interface, the backtest's numbers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rl
from levibot.errors import DataError, UnknownSymbol, UsageError
from levibot.market.bars import FloatArray, Panel
from levibot.settings import Settings
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import Costs
from levibot.trading.liquidity import Liquidity
from levibot.trading.performance import bought_once
from levibot.trading.terms import Terms
from rl.game import Episode, Game
from rl.reward import Reward
from rl.traded_market import TradedMarket
from rl.trading_env import TradingEnv
from tests.rl.conftest import FEATURES, HOUR, SYMBOLS, MakeMarket, _market_of

T = 40
RETURNS = hnp.arrays(np.float64, T, elements=st.floats(-0.1, 0.1))
DECISIONS = hnp.arrays(np.float32, T - 1, elements=st.floats(-1.0, 1.0, width=32))
RATES = hnp.arrays(np.float64, T, elements=st.floats(-0.001, 0.001))
BPS = st.floats(0.0, 50.0)
REWARDS = [
    Reward(),
    Reward(drawdown_penalty=0.5),
    Reward("differential_sharpe"),
    Reward("differential_sharpe", drawdown_penalty=0.5),
]


def prices(returns: FloatArray) -> FloatArray:
    # A last bar that moves, so that no drawn market stands still.
    return 100.0 * np.cumprod(1.0 + np.concatenate((returns[:-2], [0.01, -0.02])))


def played(env: TradingEnv, actions: Any, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Equity after each decision and the rewards, up to the end of the episode."""
    env.reset(seed=seed)
    equity, rewards = [], []
    for action in actions:
        _, reward, is_bankrupt, is_at_end, info = env.step(action)
        equity.append(info["equity"])
        rewards.append(reward)
        if is_bankrupt or is_at_end:
            break
    return np.array(equity), np.array(rewards)


def backtested(market: TradedMarket, targets: FloatArray, game: Game) -> FloatArray:
    """The equity of the same decisions, each taken at the close of a row, in the backtest."""
    column = (len(market.mark), 1)
    liquidity = Liquidity(
        market.liquidity.volume.reshape(column), market.liquidity.volatility.reshape(column)
    )
    decided = np.concatenate((targets, [np.nan])).reshape(column)
    return simulate(
        decided_at_close(decided),
        market.fill.reshape(column),
        market.mark.reshape(column),
        game.costs,
        no_trade_band=game.no_trade_band,
        terms=game.terms,
        liquidity=liquidity,
        funding_rate=market.funding_rate.reshape(column),
        start_equity=game.start_equity,
    ).equity[1:]


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_gymnasium_finds_no_fault(actions: Any, reward: Reward) -> None:
    env = gymnasium.make(
        rl.NAME,
        symbol="BTCUSDT",
        start="2020-06-01",
        end="2020-06-10",
        source=Settings.load(source="simulated", symbols=SYMBOLS, seed=3),
        features=FEATURES,
        game=Game(actions=actions, reward=reward, episode=Episode(24, random_start=True)),
    )
    check_env(env.unwrapped)
    env.close()


def test_the_issues_own_call_gives_58_numbers(source: Any) -> None:
    env = TradingEnv("BTCUSDT", "2020-06-01", "2020-06-10", source=source)
    seen, _ = env.reset(seed=0)
    assert seen.shape == (58,)
    assert env.observation_names[-4:] == ("missing_share", "position", "unrealised_return", "idle")
    assert env.observation_space.contains(seen)


def test_a_seed_gives_the_same_episodes_again(market: TradedMarket) -> None:
    game = Game(episode=Episode(10, random_start=True))

    def starts(seed: int) -> list[int]:
        env = TradingEnv.over(market, "ETHUSDT", game)
        return [env.reset(seed=seed)[1]["row"], *(env.reset()[1]["row"] for _ in range(5))]

    assert starts(4) == starts(4)
    assert starts(4) != starts(5)
    assert len(set(starts(4))) > 1


def test_every_row_that_leaves_room_is_a_start(make_market: MakeMarket) -> None:
    market = make_market(prices(np.linspace(-0.01, 0.02, 6)))
    env = TradingEnv.over(market, "BTCUSDT", Game(episode=Episode(3, random_start=True)))
    env.reset(seed=0)
    assert {env.reset()[1]["row"] for _ in range(60)} == {0, 1, 2}


def test_an_episode_ends_after_its_decisions(market: TradedMarket) -> None:
    env = TradingEnv.over(market, "BTCUSDT", Game(episode=Episode(7)))
    equity, _ = played(env, [2] * 20)
    assert len(equity) == 7
    with pytest.raises(UsageError, match="episode is over"):
        env.step(1)


@pytest.mark.parametrize("reward", REWARDS)
def test_to_do_nothing_earns_exactly_zero(market: TradedMarket, reward: Reward) -> None:
    env = TradingEnv.over(market, "BTCUSDT", Game(reward=reward, costs=Costs(20.0, 20.0, 10.0)))
    equity, rewards = played(env, [1] * len(market.mark))
    assert (equity == env.game.start_equity).all()
    assert (rewards == 0.0).all()


def test_to_buy_and_hold_is_the_backtests_buy_and_hold(source: Any) -> None:
    game = Game(no_trade_band=0.0)
    env = TradingEnv("BTCUSDT", "2020-06-01", "2020-09-30", source=source, features=FEATURES, game=game)
    equity, _ = played(env, [2] * len(env.market.mark))
    fill, mark = (of[1:, None] for of in (env.market.fill, env.market.mark))
    test = Panel(
        ("BTCUSDT",), HOUR, env.market.closes_at[1:] - np.timedelta64(HOUR), fill, fill, fill, mark, mark
    )
    held = simulate(bought_once(test), fill, mark, game.costs)
    assert len(equity) == len(held.equity) > 2_900
    assert np.abs(equity / held.equity - 1.0).max() < 1e-9


@settings(max_examples=60)
@given(
    returns=RETURNS,
    gaps=RETURNS,
    decisions=DECISIONS,
    rates=RATES,
    impact_bps=st.sampled_from([0.0, 10.0]),
    band=st.sampled_from([0.0, 0.012]),
    terms=st.builds(
        Terms, st.sampled_from(["all", "shorts", "none"]), st.sampled_from([0.7, np.inf]), st.just(np.inf)
    ),
)
def test_any_decisions_have_the_backtests_equity_bit_for_bit(
    returns: FloatArray,
    gaps: FloatArray,
    decisions: Any,
    rates: FloatArray,
    impact_bps: float,
    band: float,
    terms: Terms,
) -> None:
    close = prices(returns)
    opened = np.concatenate((close[:1], close[:-1])) * (1.0 + 0.1 * gaps)
    market = _market_of(close, opened=opened, funding_rate=rates)
    # An account that is nearly lost is still played: only then do both go on to the end.
    game = Game(
        "continuous",
        episode=Episode(ruin_share=1e-9),
        costs=Costs(impact_bps=impact_bps),
        terms=terms,
        no_trade_band=band,
    )
    equity, rewards = played(TradingEnv.over(market, "BTCUSDT", game), decisions[:, None])
    expected = backtested(market, decisions.astype(np.float64), game)
    assert equity.tobytes() == expected[: len(equity)].tobytes()
    if equity[-1] > 0.0:
        assert len(equity) == T - 1
        assert rewards.sum() == pytest.approx(np.log(equity[-1] / game.start_equity), abs=1e-9)


@settings(max_examples=40)
@given(returns=RETURNS, decisions=DECISIONS, cheap=BPS, extra=BPS, is_fee=st.booleans())
def test_higher_cost_never_raises_profit(
    returns: FloatArray, decisions: Any, cheap: float, extra: float, is_fee: bool
) -> None:
    market = _market_of(prices(returns))
    dearer = Costs(cheap + extra * is_fee, cheap + extra * (not is_fee))
    low, high = (
        played(
            TradingEnv.over(market, "BTCUSDT", Game("continuous", costs=costs, no_trade_band=0.0)),
            0.5 * decisions[:, None],
        )[0]
        for costs in (Costs(cheap, cheap), dearer)
    )
    assert (high <= low * (1.0 + 1e-12)).all()


def test_a_lost_account_ends_the_episode(make_market: MakeMarket) -> None:
    close = np.array([100.0, 101.0, 130.0, 190.0, 260.0, 261.0, 262.0])
    env = TradingEnv.over(make_market(close), "BTCUSDT", Game(episode=Episode(ruin_share=0.4)))
    env.reset(seed=0)
    ends = []
    while not ends or not any(ends[-1]):
        seen, reward, *end, info = env.step(0)
        ends.append(end)
        assert env.observation_space.contains(seen)
    assert ends[-1] == [True, False]
    assert info["equity"] <= 0.4 * env.game.start_equity
    assert np.isfinite(reward)
    assert reward < 0.0


def test_a_debt_has_a_finite_reward(make_market: MakeMarket) -> None:
    env = TradingEnv.over(make_market(np.array([100.0, 101.0, 400.0, 401.0])), "BTCUSDT")
    equity, rewards = played(env, [0, 0, 0])
    assert equity[-1] < 0.0
    assert rewards[-1] == pytest.approx(np.log(0.001 * env.game.start_equity / equity[-2]))


def test_the_account_is_seen_as_it_is(make_market: MakeMarket) -> None:
    market = make_market(np.array([100.0, 100.0, 110.0, 110.0, 99.0, 99.0]))
    game = Game("continuous", costs=Costs(10.0, 0.0), no_trade_band=0.0)
    env = TradingEnv.over(market, "BTCUSDT", game)
    seen, _ = env.reset(seed=0)
    assert seen[-4:].tolist() == [0.0, 0.0, 0.0, 0.0]
    scale = market.scaling.bar_volatility * np.sqrt(24.0)
    seen, *_ = env.step(np.array([0.5], dtype=np.float32))
    # Half of 1,000,000 is bought at 100 and costs 500.
    assert seen[-3:] == pytest.approx([500_000 / 999_500, -0.0005 / scale, 0.0], rel=1e-5)
    # The same position again: the price has not moved before this order fills, and rises by a tenth after.
    seen, *_ = env.step(seen[-3:-2])
    assert seen[-3] == pytest.approx(550_000 / 1_049_500, rel=1e-4)
    assert seen[-2] == pytest.approx(0.0495 / scale, rel=1e-3)
    seen, *_ = env.step(np.array([0.0], dtype=np.float32))
    assert seen[-3:].tolist() == [0.0, 0.0, 0.0]
    seen, *_ = env.step(np.array([0.0], dtype=np.float32))
    assert seen[-1] == pytest.approx(1.0 / 25.0)


def test_what_a_band_leaves_is_no_open_position(make_market: MakeMarket) -> None:
    env = TradingEnv.over(make_market(np.array([100.0, 100.0, 110.0, 110.0, 112.0])), "BTCUSDT")
    env.reset(seed=0)
    env.step(2)
    assert env.step(2)[0][-2] > 0.0
    seen, *_ = env.step(1)
    assert 0.0 < seen[-3] <= 2.0 * env.game.no_trade_band
    assert seen[-2] == 0.0


@pytest.mark.parametrize(
    ("actions", "wrong"),
    [("discrete", 3), ("discrete", -1), ("discrete", 1.0), ("continuous", [1.01]), ("continuous", [np.nan])],
)
def test_an_action_outside_its_space_is_refused(market: TradedMarket, actions: Any, wrong: Any) -> None:
    env = TradingEnv.over(market, "BTCUSDT", Game(actions))
    env.reset(seed=0)
    with pytest.raises(UsageError, match="must be"):
        env.step(wrong)


def test_what_cannot_be_played_is_refused(market: TradedMarket, source: Any) -> None:
    with pytest.raises(UsageError, match="Call reset first"):
        TradingEnv.over(market, "BTCUSDT").step(1)
    with pytest.raises(DataError, match="an episode of 5000 decisions needs 5001"):
        TradingEnv.over(market, "BTCUSDT", Game(episode=Episode(5000)))
    with pytest.raises(UnknownSymbol, match="'XRPUSDT'"):
        TradingEnv.over(market, "XRPUSDT")
    with pytest.raises(UnknownSymbol, match="'XRPUSDT'"):
        TradingEnv("XRPUSDT", "2020-06-01", "2020-06-10", source=source)
