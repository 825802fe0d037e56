"""PPO of RLlib over fragments of arrays: its loss and its optimiser, without its episodes and connectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import ALL_MODULES, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from rl.array_runner import GAME, MARKET, ArrayRunner
from rl.fragment import Fragment, advantages_of
from rl.game import Game
from rl.policy import policy_spec
from rl.spaces import action_space, observation_space
from rl.traded_market import TradedMarket

# What a batch's advantages are divided by at least, as in RLlib's own connector.
LEAST_DEVIATION = 1e-4


@dataclass(frozen=True, slots=True)
class Learning:
    """How a policy learns: the numbers of PPO, one for one what is counted in the ledger of trials.

    n_accounts, n_steps: of a runner's turn; a batch has their product, times the runners. gradient_norm: at
    most. vf_clip: of a value's squared error.
    """

    n_accounts: int = 128
    n_steps: int = 64
    minibatch_size: int = 1024
    n_epochs: int = 8
    learning_rate: float = 1e-3
    gamma: float = 0.9
    gae_lambda: float = 0.9
    clip: float = 0.2
    entropy: float = 0.001
    value_weight: float = 0.5
    vf_clip: float = 10.0
    gradient_norm: float = 0.5
    hidden: tuple[int, ...] = (64, 64)

    def parameters(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"hidden": list(self.hidden)}


class ArrayLearner(PPOTorchLearner):  # type: ignore[misc]
    """PPO's learner, which takes fragments where others take episodes.

    Values are those of its own net at the turn's beginning, in one pass over all that was seen.
    """

    def _make_batch_if_necessary(self, training_data: TrainingData) -> MultiAgentBatch:
        parts = [self._samples(fragment) for fragment in training_data.episodes]
        batch = {column: torch.cat([part[column] for part in parts]) for column in parts[0]}
        advantages = batch[Postprocessing.ADVANTAGES]
        spread = advantages.std(correction=0).clamp_min(LEAST_DEVIATION)
        batch[Postprocessing.ADVANTAGES] = (advantages - advantages.mean()) / spread
        return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(batch)}, env_steps=len(advantages))

    def _samples(self, fragment: Fragment) -> dict[str, torch.Tensor]:
        """The decisions of a fragment, with what they were worth: (K, …) tensors."""
        # What came out of shared memory is read-only, which torch does not take.
        seen = torch.tensor(fragment.observations)
        with torch.no_grad():
            values = self.module[DEFAULT_MODULE_ID].unwrapped().compute_values({Columns.OBS: seen}).numpy()
        advantages = advantages_of(
            fragment.rewards,
            values,
            fragment.terminated,
            fragment.truncated,
            self.config.gamma,
            self.config.lambda_,
        )
        columns: dict[str, np.ndarray[Any, Any]] = {
            Columns.OBS: fragment.observations[:-1],
            Columns.ACTIONS: fragment.actions,
            Columns.ACTION_DIST_INPUTS: fragment.logits,
            Columns.ACTION_LOGP: fragment.log_probabilities,
            Postprocessing.ADVANTAGES: advantages,
            Postprocessing.VALUE_TARGETS: advantages + values[:-1],
        }
        return {name: torch.from_numpy(column[fragment.is_decision]) for name, column in columns.items()}


class ArrayPPO(PPO):  # type: ignore[misc]
    """PPO in turns: every runner plays one fragment, all are learned from, all get the new weights.

    A runner that died gave nothing to this turn and is started again for a later one: the batch is smaller
    then, and never mixed of two policies.
    """

    def training_step(self) -> None:
        """One turn."""
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            fragments, results = synchronous_parallel_sample(
                worker_set=self.env_runner_group,
                sample_timeout_s=self.config.sample_timeout_s,
                _uses_new_env_runners=True,
                _return_metrics=True,
            )
            if not fragments:
                return
            self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        sampled = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learned = self.learner_group.update(
                episodes=fragments,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: sampled},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=True,
            )
            self.metrics.aggregate(learned, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                policies=set(learned[0]) - {ALL_MODULES},
                inference_only=True,
            )


def ppo_config(
    make_market: Callable[[], TradedMarket],
    market: TradedMarket,
    game: Game,
    learning: Learning,
    *,
    seed: int,
    n_runners: int = 0,
) -> PPOConfig:
    """What `build_algo` makes a training of.

    make_market: gives a runner its market, where it plays. market: the same, here, for its spaces.
    n_runners: 0 plays in this process. Batches are learned in this process, in one thread of torch.
    """
    seen, done = observation_space(market), action_space(game.actions)
    return (
        PPOConfig(algo_class=ArrayPPO)
        .environment(
            env=None,
            env_config={MARKET: make_market, GAME: game},
            observation_space=seen,
            action_space=done,
        )
        .env_runners(
            env_runner_cls=ArrayRunner,
            num_env_runners=n_runners,
            num_envs_per_env_runner=learning.n_accounts,
            rollout_fragment_length=learning.n_steps,
            create_env_on_local_worker=n_runners == 0,
        )
        .learners(learner_class=ArrayLearner, num_learners=0)
        .rl_module(rl_module_spec=policy_spec(seen, done, hidden=learning.hidden))
        .training(
            lr=learning.learning_rate,
            gamma=learning.gamma,
            lambda_=learning.gae_lambda,
            clip_param=learning.clip,
            entropy_coeff=learning.entropy,
            vf_loss_coeff=learning.value_weight,
            vf_clip_param=learning.vf_clip,
            grad_clip=learning.gradient_norm,
            grad_clip_by="global_norm",
            use_kl_loss=False,
            num_epochs=learning.n_epochs,
            minibatch_size=learning.minibatch_size,
            train_batch_size_per_learner=learning.n_accounts * learning.n_steps * max(1, n_runners),
        )
        .fault_tolerance(restart_failed_env_runners=True)
        .debugging(seed=seed, log_level="WARNING")
        .reporting(min_time_s_per_iteration=0)
    )
