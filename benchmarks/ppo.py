"""Steps sampled and learned a second by PPO on RLlib with whole arrays, beside stable-baselines3's PPO.

Both play the same planted market by the same vector environment, with the same net, batch, minibatches,
epochs, learning rate, gamma and lambda, in one thread of this process. Both must find the edge:
`found_share` is the net Sharpe ratio on later draws over that of the best policy. stable-baselines3 gets its
own interface over the environment's buffers and no monitor; it wants ended accounts to begin again in
the same step, so the step that begins them is taken at once for all, which have episodes of one length.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.comparison import QUICK_REPEATS, arguments, compare, report
from rl.array_ppo import Learning, ppo_config
from rl.exam import Exam, decisions_of, sit
from rl.game import Episode, Game
from rl.planted_market import planted_market
from rl.traded_market import TradedMarket
from rl.vector_env import TradingVectorEnv

DRIFT, N_BARS, N_LATER, EPISODE_BARS = 0.001, 20_000, 4_000, 168
TURNS, TURNS_QUICK, REPEATS = 15, 3, 3
LEARNING = Learning()


class LockStep(VecEnv):
    """`TradingVectorEnv` as stable-baselines3 takes it. No account may end before the others do."""

    def __init__(self, market: TradedMarket, game: Game) -> None:
        self._envs = TradingVectorEnv.over(market, LEARNING.n_accounts, game, copy=False)
        super().__init__(
            LEARNING.n_accounts,
            self._envs.single_observation_space,
            spaces.Discrete(3),
        )
        self._no_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._idle = np.ones(self.num_envs, dtype=np.int64)

    def reset(self) -> Any:
        return self._envs.reset(seed=self._seeds[0])[0].copy()

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> Any:
        seen, rewards, ruined, cut, _ = self._envs.step(self._actions)
        over = ruined | cut
        if not over.any():
            return seen.copy(), rewards.copy(), over, self._no_infos
        if not over.all():
            raise RuntimeError("An account ended before the others: this adapter cannot play that.")
        last, rewards = seen.copy(), rewards.copy()
        infos = [
            {"terminal_observation": last[i], "TimeLimit.truncated": bool(cut[i] and not ruined[i])}
            for i in range(self.num_envs)
        ]
        return self._envs.step(self._idle)[0].copy(), rewards, over, infos

    def close(self) -> None:
        self._envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ARG002
        return [getattr(self._envs, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        return [False] * self.num_envs


def main() -> None:
    args = arguments(__doc__ or "")
    turns = TURNS_QUICK if args.quick else TURNS
    torch.set_num_threads(1)
    # No account is ruined by less than all: they end together.
    game = Game(episode=Episode(EPISODE_BARS, random_start=True, ruin_share=1e-9))
    make = partial(planted_market, N_BARS, DRIFT, 1)
    market, later = make(), planted_market(N_LATER, DRIFT, 99)
    best = sit(lambda seen: np.where(seen[:, 0] > 0.0, 2, 0), later, game)
    turn = iter(range(1_000_000))

    def measured(rate: float, exam: Exam) -> Mapping[str, float]:
        return {"steps_per_s": rate, "found_share": exam.net_sharpe / best.net_sharpe}

    def ours() -> Mapping[str, float]:
        algorithm = ppo_config(make, market, game, LEARNING, seed=next(turn)).build_algo()
        algorithm.train()
        steps, started = 0.0, time.perf_counter()
        for _ in range(turns):
            steps += algorithm.train()["env_runners"]["num_env_steps_sampled"]
        took_s = time.perf_counter() - started
        exam = sit(decisions_of(algorithm.get_module(), game), later, game)
        algorithm.stop()
        return measured(steps / took_s, exam)

    def reference() -> Mapping[str, float]:
        envs = LockStep(market, game)
        batch = LEARNING.n_accounts * LEARNING.n_steps
        model = PPO(
            "MlpPolicy",
            envs,
            learning_rate=LEARNING.learning_rate,
            n_steps=LEARNING.n_steps,
            batch_size=LEARNING.minibatch_size,
            n_epochs=LEARNING.n_epochs,
            gamma=LEARNING.gamma,
            gae_lambda=LEARNING.gae_lambda,
            clip_range=LEARNING.clip,
            ent_coef=LEARNING.entropy,
            vf_coef=LEARNING.value_weight,
            max_grad_norm=LEARNING.gradient_norm,
            policy_kwargs={"net_arch": list(LEARNING.hidden)},
            seed=next(turn),
            device="cpu",
        )
        model.learn(batch)
        started = time.perf_counter()
        model.learn(batch * turns)
        took_s = time.perf_counter() - started
        exam = sit(lambda seen: model.predict(seen, deterministic=True)[0], later, game)
        return measured(batch * turns / took_s, exam)

    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", _temp_dir=folder
        )
        result = compare(
            "ppo",
            ours,
            reference,
            what="stable-baselines3's PPO on the same environment, net, batch, minibatches and epochs",
            goal={"steps_per_s": (">=", 1.0), "found_share": (">=", 0.95)},
            repeats=QUICK_REPEATS if args.quick else REPEATS,
            packages=("ray", "torch", "stable-baselines3", "gymnasium"),
            notes={"turns": turns, "best_net_sharpe": best.net_sharpe, **LEARNING.parameters()},
        )
        ray.shutdown()
    report(result, as_json=args.json)


if __name__ == "__main__":
    main()
