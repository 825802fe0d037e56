"""Whole arrays are worth what a loop over every account says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from levibot.market.bars import FloatArray
from rl.array_ppo import Learning, ppo_config
from rl.array_runner import ArrayRunner
from rl.fragment import Fragment, advantages_of
from rl.game import Episode, Game
from rl.planted_market import planted_market
from rl.vector_env import TradingVectorEnv

GAMMA, GAE_LAMBDA = 0.9, 0.8
N = 6


def slow_advantages(fragment: Fragment, values: Any, account: int) -> dict[int, float]:
    """By step, the discounted sum of all surprises up to the episode's end, by definition."""
    worth = {}
    steps = [t for t in range(len(fragment.rewards)) if fragment.is_decision[t, account]]
    for first in steps:
        total, weight = 0.0, 1.0
        for t in range(first, len(fragment.rewards)):
            ruined, cut = fragment.terminated[t, account], fragment.truncated[t, account]
            after = 0.0 if ruined else GAMMA * float(values[t + 1, account])
            total += weight * (float(fragment.rewards[t, account]) + after - float(values[t, account]))
            weight *= GAMMA * GAE_LAMBDA
            if ruined or cut:
                break
        worth[first] = total
    return worth


def runner_of(length_bars: int, seed: int, n_steps: int, actions: Any = "discrete") -> ArrayRunner:
    market = planted_market(300, 0.001, 5)
    # Ruined by a loss of 2 %, which a few bars bring: ends of both kinds are met.
    game = Game(actions, episode=Episode(length_bars, random_start=True, ruin_share=0.98))
    learning = Learning(n_accounts=N, n_steps=n_steps, gamma=GAMMA, gae_lambda=GAE_LAMBDA, minibatch_size=N)
    config = ppo_config(lambda: market, market, game, learning, seed=seed)
    return ArrayRunner(config=config, worker_index=0)


@settings(max_examples=15, deadline=None)
@given(length_bars=st.integers(1, 12), seed=st.integers(0, 10_000), n_steps=st.integers(1, 30))
def test_advantages_are_those_of_a_loop_over_every_account(length_bars: int, seed: int, n_steps: int) -> None:
    runner = runner_of(length_bars, seed, n_steps)
    for _ in range(2):
        (fragment,) = runner.sample()
        values = np.random.default_rng(seed).normal(size=(n_steps + 1, N)).astype(np.float32)
        ours = advantages_of(
            fragment.rewards, values, fragment.terminated, fragment.truncated, GAMMA, GAE_LAMBDA
        )
        for account in range(N):
            for t, worth in slow_advantages(fragment, values, account).items():
                assert abs(ours[t, account] - worth) < 1e-5


def test_both_kinds_of_ends_are_met_by_what_is_compared() -> None:
    (fragment,) = runner_of(8, 1, 200).sample()
    assert fragment.terminated.any()
    assert fragment.truncated.any()
    assert not fragment.is_decision.all()


def test_the_step_after_an_end_is_no_sample_across_fragments_too() -> None:
    runner = runner_of(3, 2, 5)
    over = np.zeros(N, dtype=np.bool_)
    for _ in range(6):
        (fragment,) = runner.sample()
        for t in range(5):
            assert (fragment.is_decision[t] == ~over).all()
            over = fragment.terminated[t] | fragment.truncated[t]


def test_a_fragment_is_what_the_environment_says_to_the_same_actions() -> None:
    for actions in ("discrete", "continuous"):
        runner = runner_of(7, 3, 40, actions)
        (fragment,) = runner.sample()
        assert runner.env is not None
        replayed = TradingVectorEnv.over(runner.env.market, N, runner.env.game)
        of_accounts, _ = np.random.SeedSequence((3, 0, 0)).generate_state(2)
        seen, _ = replayed.reset(seed=int(of_accounts))
        totals, lengths = np.zeros(N), np.zeros(N)
        ended: list[tuple[float, float]] = []
        for t in range(40):
            assert (fragment.observations[t] == seen).all()
            said = fragment.actions[t]
            seen, rewards, ruined, cut, _ = replayed.step(
                np.clip(said, -1, 1) if actions == "continuous" else said
            )
            assert np.allclose(fragment.rewards[t], rewards, atol=1e-7)
            totals, lengths = totals + rewards, lengths + fragment.is_decision[t]
            for i in np.flatnonzero(ruined | cut):
                ended.append((totals[i], lengths[i]))
                totals[i] = lengths[i] = 0.0
        assert np.allclose(fragment.episode_returns, [total for total, _ in ended], atol=1e-5)
        assert fragment.episode_lengths.tolist() == [length for _, length in ended]


def test_the_learner_takes_the_decisions_and_nothing_else() -> None:
    runner = runner_of(4, 4, 25)
    config = runner.config
    learner = config.build_learner(spaces=runner.get_spaces())
    fragments = runner.sample() + runner.sample()
    training_data = type("Given", (), {"episodes": fragments})()
    batch = learner._make_batch_if_necessary(training_data)
    samples = batch.policy_batches["default_policy"]
    expected: list[FloatArray] = []
    for fragment in fragments:
        with torch.no_grad():
            values = (
                learner.module["default_policy"]
                .compute_values({Columns.OBS: torch.from_numpy(fragment.observations)})
                .numpy()
            )
        slow = [slow_advantages(fragment, values, i) for i in range(N)]
        # Steps first, then accounts, as a mask reads them.
        for t in range(25):
            expected += [np.array([slow[i][t], slow[i][t] + values[t, i]]) for i in range(N) if t in slow[i]]
    worth = np.array(expected)
    assert len(samples[Columns.OBS]) == sum(len(fragment) for fragment in fragments) == len(worth)
    standard = (worth[:, 0] - worth[:, 0].mean()) / max(worth[:, 0].std(), 1e-4)
    assert np.allclose(samples[Postprocessing.ADVANTAGES].numpy(), standard, atol=1e-3)
    assert np.allclose(samples[Postprocessing.VALUE_TARGETS].numpy(), worth[:, 1], atol=1e-5)


def test_runners_draw_apart_and_a_runner_draws_the_same_again() -> None:
    first, same, other = (runner_of(50, seed, 10).sample()[0] for seed in (6, 6, 7))
    assert first.observations.tobytes() == same.observations.tobytes()
    assert first.actions.tobytes() == same.actions.tobytes()
    assert first.actions.tobytes() != other.actions.tobytes()


def test_a_runner_goes_on_with_the_state_of_another() -> None:
    one, two = runner_of(50, 6, 10), runner_of(50, 8, 10)
    (fragment,) = one.sample()
    two.set_state(one.get_state())
    assert two.num_env_steps_sampled_lifetime == len(fragment) > 0
    for name, weight in one.module.state_dict().items():
        assert torch.equal(weight, two.module.state_dict()[name])
