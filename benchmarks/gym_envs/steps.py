"""Steps other trading environments under gymnasium's own vectorisation, in an environment that has them.

Reads the prices' file and the number of sub-environments from the command line, then one line a run from
standard input: a name of `_ENVIRONMENTS` and how many steps of all of them. Answers each with one line of
JSON: the seconds of CPU time it took and the size of an observation.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gym_trading_env.environments as trading_env  # type: ignore[import-not-found]
import gymnasium
import numpy as np
import pandas as pd  # type: ignore[import-untyped, unused-ignore]
from gym_anytrading.envs import StocksEnv  # type: ignore[import-not-found]

# Both show 64 numbers: 32 bars of a price and its change, and 62 columns beside two of their own.
WINDOW_BARS, N_COLUMNS = 32, 62
EPISODE_BARS = 720


def main() -> None:
    price, n_envs = np.load(sys.argv[1]), int(sys.argv[2])
    made = {name: make(price, n_envs) for name, make in _ENVIRONMENTS.items()}
    packages = ("gym-anytrading", "gym-trading-env", "gymnasium", "numpy", "pandas")
    _answer({"versions": {name: version(name) for name in packages}})
    for line in sys.stdin:
        name, steps = line.split()
        envs = made[name]
        seen, _ = envs.reset(seed=0)
        actions = np.random.default_rng(0).integers(0, 2, (int(steps), n_envs))
        started = time.process_time()
        for said in actions:
            envs.step(said)
        took = time.process_time() - started
        _answer({"took_s": took, "numbers": int(np.prod(seen.shape[1:]))})


def _anytrading(price: Any, n_envs: int) -> Any:
    frame = pd.DataFrame({"Close": price})
    frame_bound = (WINDOW_BARS, len(frame))
    return _vectorised(lambda: StocksEnv(frame, WINDOW_BARS, frame_bound), n_envs)


def _trading_env(price: Any, n_envs: int) -> Any:
    index = pd.date_range("2020-01-01", periods=len(price), freq="h")
    prices = dict.fromkeys(("open", "high", "low", "close"), price)
    drawn = np.random.default_rng(1).normal(size=(len(price), N_COLUMNS)).astype(np.float32)
    columns = {f"feature_{n}": drawn[:, n] for n in range(N_COLUMNS)}
    frame = pd.DataFrame(prices | columns, index=index)

    def make() -> Any:
        return trading_env.TradingEnv(
            frame, positions=[-1, 1], trading_fees=0.001, max_episode_duration=EPISODE_BARS, verbose=0
        )

    return _vectorised(make, n_envs)


def _vectorised(make: Callable[[], Any], n_envs: int) -> Any:
    return gymnasium.vector.SyncVectorEnv([make for _ in range(n_envs)])


def _answer(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


_ENVIRONMENTS: dict[str, Callable[[Any, int], Any]] = {
    "gym_anytrading": _anytrading,
    "gym_trading_env": _trading_env,
}

if __name__ == "__main__":
    main()
