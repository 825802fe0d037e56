"""Plays many accounts in whole arrays, for RLlib: no loop over sub-environments, no episode objects."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    WEIGHTS_SEQ_NO,
)

from levibot.errors import UsageError
from rl.fragment import Fragment
from rl.vector_env import TradingVectorEnv

# In `env_config`: what makes the market, and the rules it is played by.
MARKET, GAME = "market", "game"


class ArrayRunner(EnvRunner, Checkpointable):  # type: ignore[misc]
    """`num_envs_per_env_runner` accounts of `TradingVectorEnv`, `rollout_fragment_length` steps a turn.

    `env_config` holds MARKET, a call without arguments that gives a `TradedMarket`, and GAME, a `Game`. Both
    are pickled: a market is read where it is played, and is not part of a checkpoint.
    A runner that begins, or begins again, draws from a seed of its own: of the configuration's seed, its
    number and how many steps had been sampled by then. Its accounts begin new episodes; those that a crash
    or a resumption cut off are not continued and none of their steps is learned twice.
    """

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        # A runner is one of many on its machine.
        if self.worker_index:
            torch.set_num_threads(1)
        self.num_env_steps_sampled_lifetime = 0
        self.spaces = kwargs.get("spaces") or {}
        self.module: Any = None
        self.env: TradingVectorEnv | None = None
        self._weights_seq_no = 0
        self._seen: np.ndarray[Any, Any] | None = None
        # The algorithm's own runner plays only where there is no other.
        if self.worker_index or not self.config.num_env_runners:
            self.make_env()
        self.make_module()

    def make_env(self) -> None:
        """Open the market; the next turn begins new episodes."""
        made = self.config.env_config
        self.env = TradingVectorEnv.over(
            made[MARKET](), self.config.num_envs_per_env_runner, made[GAME], copy=False
        )
        self._seen = None

    def make_module(self) -> None:
        """The policy without its value, which the learner knows better."""
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = spec.build()

    def get_spaces(self) -> dict[str, tuple[gymnasium.Space[Any], gymnasium.Space[Any]]]:
        """Of one account."""
        return {DEFAULT_MODULE_ID: (self.config.observation_space, self.config.action_space)}

    def assert_healthy(self) -> None:
        """Raises AssertionError where there is no policy."""
        assert self.module is not None

    def sample(self, **_: Any) -> list[Fragment]:
        """One turn: a list of one fragment. Raises UsageError where this runner has no market."""
        if self.env is None:
            raise UsageError("This runner has no market: the others play.")
        if self._seen is None:
            self._begin()
        n_steps, n = self.config.get_rollout_fragment_length(self.worker_index or 0), self.env.num_envs
        shape, space = (n_steps, n), self.env.single_action_space
        drawn = np.empty((*shape, *(space.shape or ())), dtype=space.dtype)
        observations = np.empty((n_steps + 1, n, self._seen.shape[1]), dtype=np.float32)  # type: ignore[union-attr]
        log_probabilities, rewards = (np.empty(shape, dtype=np.float32) for _ in range(2))
        terminated, truncated, is_decision = (np.empty(shape, dtype=np.bool_) for _ in range(3))
        logits: np.ndarray[Any, Any] | None = None
        distribution = self.module.get_exploration_action_dist_cls()
        returns: list[np.ndarray[Any, Any]] = []
        lengths: list[np.ndarray[Any, Any]] = []
        observations[0] = self._seen
        with torch.inference_mode():
            for t in range(n_steps):
                said = self.module.forward_exploration({Columns.OBS: torch.from_numpy(observations[t])})
                here = said[Columns.ACTION_DIST_INPUTS]
                choice = distribution.from_logits(here)
                actions = choice.sample()
                if logits is None:
                    logits = np.empty((*shape, here.shape[-1]), dtype=np.float32)
                logits[t], drawn[t] = here.numpy(), actions.numpy()
                log_probabilities[t] = choice.logp(actions).numpy()
                taken = drawn[t]
                if isinstance(space, gymnasium.spaces.Box):
                    taken = np.clip(taken, space.low, space.high)
                observations[t + 1], rewards[t], terminated[t], truncated[t], _ = self.env.step(taken)
                np.logical_not(self._is_over, out=is_decision[t])
                self._returns += rewards[t]
                self._lengths += is_decision[t]
                np.logical_or(terminated[t], truncated[t], out=self._is_over)
                if self._is_over.any():
                    returns.append(self._returns[self._is_over])
                    lengths.append(self._lengths[self._is_over])
                    self._returns[self._is_over], self._lengths[self._is_over] = 0.0, 0
        self._seen = observations[-1].copy()
        fragment = Fragment(
            observations,
            drawn,
            logits if logits is not None else np.empty((*shape, 0), dtype=np.float32),
            log_probabilities,
            rewards,
            terminated,
            truncated,
            is_decision,
            np.concatenate(returns) if returns else np.empty(0),
            np.concatenate(lengths) if lengths else np.empty(0, dtype=np.int64),
        )
        self._log(fragment)
        return [fragment]

    def get_metrics(self) -> Any:
        """Of the turns since it was asked last."""
        return self.metrics.reduce()

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Weights and how many steps were sampled; accounts are not part of it, see the class."""
        state: dict[str, Any] = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self.num_env_steps_sampled_lifetime}
        if self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
            state[WEIGHTS_SEQ_NO] = self._weights_seq_no
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take weights, unless they are older than those it has."""
        if COMPONENT_RL_MODULE in state:
            seq_no = state.get(WEIGHTS_SEQ_NO, 0)
            if seq_no == 0 or self._weights_seq_no < seq_no:
                weights = state[COMPONENT_RL_MODULE]
                weights = ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights
                self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
            self._weights_seq_no = seq_no or self._weights_seq_no
        self.num_env_steps_sampled_lifetime = state.get(
            NUM_ENV_STEPS_SAMPLED_LIFETIME, self.num_env_steps_sampled_lifetime
        )

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """For a checkpoint."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """For a checkpoint."""
        return [(COMPONENT_RL_MODULE, self.module)]

    def stop(self) -> None:
        """Close the market."""
        if self.env is not None:
            self.env.close()

    def _begin(self) -> None:
        assert self.env is not None
        entropy = [self.config.seed or 0, self.worker_index or 0, self.num_env_steps_sampled_lifetime]
        of_accounts, of_actions = np.random.SeedSequence(entropy).generate_state(2)
        torch.manual_seed(int(of_actions))
        self._seen = self.env.reset(seed=int(of_accounts))[0].copy()
        n = self.env.num_envs
        self._is_over = np.zeros(n, dtype=np.bool_)
        self._returns, self._lengths = np.zeros(n), np.zeros(n, dtype=np.int64)

    def _log(self, fragment: Fragment) -> None:
        n_steps = len(fragment)
        self.num_env_steps_sampled_lifetime += n_steps
        self.metrics.log_value(NUM_ENV_STEPS_SAMPLED, n_steps, reduce="sum")
        self.metrics.log_value(
            NUM_ENV_STEPS_SAMPLED_LIFETIME, n_steps, reduce="lifetime_sum", with_throughput=True
        )
        self.metrics.log_value(NUM_EPISODES, len(fragment.episode_returns), reduce="sum")
        if len(fragment.episode_returns):
            # One number a turn: they are all of the same policy.
            self.metrics.log_value(EPISODE_RETURN_MEAN, float(fragment.episode_returns.mean()), window=1)
            self.metrics.log_value(EPISODE_LEN_MEAN, float(fragment.episode_lengths.mean()), window=1)
        self._log_env_steps(self._metrics_num_env_steps_sampled, n_steps)
