"""Steps of the environment a second of one core, beside merely copying what it shows, and two other ones.

A second is one of CPU time: everything here runs in one thread, and what a busy machine does meanwhile is not
counted on either side.

2,048 accounts of two symbols see 64 numbers each, in episodes of 720 bars from random starts, with all costs.
The others run under gymnasium's own vectorisation (`SyncVectorEnv`) in a process of their own, also on one
core, with 64 numbers an observation. They hold the whole history once a sub-environment, so there are fewer
of them; each steps by itself in Python, and how many there are changes nothing for one.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.errors import LeviBotError
from levibot.features.views import FULL
from levibot.market.bars import FloatArray
from levibot.market.simulator import SimulatedSource
from levibot.trading.costs import Costs
from rl.game import Actions, Episode, Game
from rl.traded_market import TradedMarket
from rl.vector_env import TradingVectorEnv

PINNED = ("gym-anytrading==2.0.0", "gymnasium==1.2.2", "pandas>=2.2,<3", "matplotlib>=3.10")
# Its own pins are of what it draws and downloads with, which nobody asks of it here.
WITHOUT_DEPENDENCIES = ("gym-trading-env==0.3.5",)
STEPS_OF_OTHERS = Path(__file__).parent / "gym_envs" / "steps.py"
INSTALL_TIMEOUT_S = 900
SYMBOLS = ("BTCUSDT", "ETHUSDT")
START, END = "2020-06-01", "2021-05-31"
N_ACCOUNTS, N_OTHERS, N_NUMBERS, EPISODE_BARS = 2048, 64, 64, 720
STEPS, STEPS_QUICK, STEPS_OTHERS, STEPS_OTHERS_QUICK = 2_000, 200, 400, 20
OTHERS_BARS = 3_000
OTHERS = ("gym_anytrading", "gym_trading_env")


def main() -> None:
    args = arguments(__doc__ or "")
    steps, steps_others = (STEPS_QUICK, STEPS_OTHERS_QUICK) if args.quick else (STEPS, STEPS_OTHERS)
    market = _market()
    in_place, copied = (_envs(market, "discrete", copy=copy) for copy in (False, True))
    continuous = _envs(market, "continuous", copy=False)
    choices = np.random.default_rng(0).integers(0, 3, (steps, N_ACCOUNTS))
    positions = np.random.default_rng(0).uniform(-1, 1, (steps, N_ACCOUNTS, 1)).astype(np.float32)
    also: dict[str, list[float]] = {"copied": [], "continuous": []}
    with tempfile.TemporaryDirectory() as folder, _Others(Path(folder), market.mark[:OTHERS_BARS]) as others:
        for envs, said in ((in_place, choices), (copied, choices), (continuous, positions)):
            _steps_per_cpu_s(envs, said[:50])

        def ours() -> Mapping[str, float]:
            rate = _steps_per_cpu_s(in_place, choices)
            also["copied"].append(_steps_per_cpu_s(copied, choices))
            also["continuous"].append(_steps_per_cpu_s(continuous, positions))
            beside = {f"steps_per_cpu_s_beside_{name}": rate for name in ("copying", *OTHERS)}
            return {"steps_per_cpu_s": rate} | beside

        def reference() -> Mapping[str, float]:
            took = {
                f"steps_per_cpu_s_beside_{name}": others.steps_per_cpu_s(name, steps_others)
                for name in OTHERS
            }
            return {"steps_per_cpu_s_beside_copying": _copies_per_cpu_s(in_place, steps)} | took

        result = compare(
            "rl_env",
            ours,
            reference,
            what="merely copying the observations; gym-anytrading and gym-trading-env under SyncVectorEnv",
            goal={
                "steps_per_cpu_s": (">=", 5e6),
                "steps_per_cpu_s_beside_gym_anytrading": (">=", 40.0),
                "steps_per_cpu_s_beside_gym_trading_env": (">=", 200.0),
            },
            repeats=QUICK_REPEATS if args.quick else REPEATS,
            packages=("gymnasium", "numba", "numpy"),
            notes={
                "accounts": N_ACCOUNTS,
                "numbers": N_NUMBERS,
                "steps_of_all_accounts": steps,
                "others_accounts": N_OTHERS,
                "others_numbers": others.numbers,
                "others_versions": others.versions,
            },
        )
    for name, rates in also.items():
        result.notes[f"steps_per_cpu_s_{name}"] = median(rates)  # type: ignore[index]
    report(result, as_json=args.json)


def _market() -> TradedMarket:
    source = SimulatedSource(SYMBOLS, timedelta(hours=1), 7, 0.03)
    # The number of an account's own stands behind the features.
    alone = [feature.name for feature in FULL.features if set(feature.inputs).isdisjoint(FULL.side_series)]
    names = alone[: N_NUMBERS - 4]
    return TradedMarket.load(source, SYMBOLS, START, END, view=FULL.name, features=names)


def _envs(market: TradedMarket, actions: Actions, *, copy: bool) -> TradingVectorEnv:
    game = Game(actions, episode=Episode(EPISODE_BARS, random_start=True), costs=Costs(impact_bps=10.0))
    envs = TradingVectorEnv.over(market, N_ACCOUNTS, game, copy=copy)
    if len(envs.observation_names) != N_NUMBERS:
        raise LeviBotError(f"An observation has {len(envs.observation_names)} numbers, not {N_NUMBERS}.")
    return envs


def _steps_per_cpu_s(envs: TradingVectorEnv, actions: npt.NDArray[Any]) -> float:
    envs.reset(seed=0)
    started = time.process_time()
    for said in actions:
        envs.step(said)
    return float(actions.shape[0] * envs.num_envs / (time.process_time() - started))


def _copies_per_cpu_s(envs: TradingVectorEnv, steps: int) -> float:
    """Observations a second, when an observation of all accounts is copied and nothing else is done."""
    seen, _ = envs.reset(seed=0)
    there = np.empty_like(seen)
    started = time.process_time()
    for _ in range(steps):
        np.copyto(there, seen)
    return float(steps * envs.num_envs / (time.process_time() - started))


class _Others:
    """A process with the other environments on the same prices. State: the process."""

    def __init__(self, folder: Path, price: FloatArray) -> None:
        np.save(folder / "price.npy", price)
        command = [
            *(str(_python()), "-W", "ignore"),
            *(str(STEPS_OF_OTHERS), str(folder / "price.npy"), str(N_OTHERS)),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions: Mapping[str, str] = self._answer()["versions"]
        self.numbers: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def steps_per_cpu_s(self, name: str, steps: int) -> float:
        """Of all sub-environments together."""
        if self._process.stdin is None:
            raise LeviBotError("The process with the other environments has no input.")
        self._process.stdin.write(f"{name} {steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.numbers[name] = int(answer["numbers"])
        return steps * N_OTHERS / float(answer["took_s"])

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise LeviBotError("The process with the other environments ended: what it said is above.")
        return dict(json.loads(line))


def _python() -> Path:
    """The interpreter of an environment that has the others, which is made where there is none."""
    at = Path(tempfile.gettempdir()) / "levibot-gym-envs"
    folder = Path(os.environ.get("LEVIBOT_GYM_ENVS_VENV", at))
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *PINNED], check=True, timeout=INSTALL_TIMEOUT_S)
        alone = [*install, "--no-deps", *WITHOUT_DEPENDENCIES]
        subprocess.run(alone, check=True, timeout=INSTALL_TIMEOUT_S)
    return python


if __name__ == "__main__":
    main()
