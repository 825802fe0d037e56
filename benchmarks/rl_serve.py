"""`POST /ai/predict/rl` at 100 requests a second with the whole system up, and a decision alone.

A request is due at its own instant, whatever became of those before: waiting for a slow one counts for all
that it holds up. `request_*_ms` runs from that instant to the parsed answer; the reference is `GET /livez` at
the same rate over the same connections. `decide_*_ms` is what the policy's replica does for a close, from the
features to the choice, in a process beside the running system; its reference is the graph alone, one call of
onnxruntime on a ready row. The policy's net has the shape of a trained one and has learned nothing, which
takes the same time.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from threading import local
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from benchmarks.running_system import RunningSystem, running_system
from levibot.serving.policy import OBSERVATION, Policy
from levibot.settings import Settings
from levibot.stores.connect import open_policies
from rl.export_onnx import export
from rl.game import Game
from rl.policy import policy_spec
from rl.spaces import action_space, observation_space
from rl.traded_market import TradedMarket

RATE_PER_S, N_CONNECTIONS = 100.0, 8
N_REQUESTS, QUICK_REQUESTS = 3_000, 300
N_DECISIONS, QUICK_DECISIONS = 5_000, 500
TRAIN_START, TRAIN_END = "2023-10-01", "2023-12-31"
PARITY_ROWS = 3_000
TIMEOUT_S, UP_TIMEOUT_S = 30.0, 60.0
PATH = "/ai/predict/rl"


def register(settings: Settings) -> Policy:
    """Make a policy of the settings' market active, and return it as its replica has it."""
    market = TradedMarket.load(settings, settings.symbols, TRAIN_START, TRAIN_END, keeps_unscaled=True)
    torch.manual_seed(settings.seed)
    module = policy_spec(observation_space(market), action_space("discrete")).build()
    registry = open_policies(settings)
    described = {"market_id": settings.market_id, "source": settings.source, "git_commit": None}
    version = export(module, market, Game(), registry, described, seed=settings.seed, n_rows=PARITY_ROWS)
    registry.activate(version, "benchmark")
    return Policy.of(registry.load(version))


class Caller:
    """Connections to a running system, one a thread."""

    def __init__(self, system: RunningSystem, symbol: str) -> None:
        self._netloc = urlsplit(system.url).netloc
        self._headers = {**system.headers, "content-type": "application/json"}
        self._body = json.dumps({"symbol": symbol})
        self._own = local()

    def decide(self) -> None:
        """One decision is asked for."""
        self._answered("POST", PATH, self._body)

    def live(self) -> None:
        """One look that needs nothing."""
        self._answered("GET", "/livez", None)

    def _answered(self, method: str, path: str, body: str | None) -> None:
        if not hasattr(self._own, "connection"):
            self._own.connection = HTTPConnection(self._netloc, timeout=TIMEOUT_S)
        self._own.connection.request(method, path, body=body, headers=self._headers)
        answer = self._own.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered with {answer.status}: {text[:300]!r}")
        json.loads(text)


def latencies_ms(ask: Callable[[], None], threads: ThreadPoolExecutor, n_requests: int) -> list[float]:
    """Of requests that are due at a steady rate, each from its own instant."""
    began = time.perf_counter() + 0.1

    def one(number: int) -> float:
        due = began + number / RATE_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        ask()
        return 1000.0 * (time.perf_counter() - due)

    return list(threads.map(one, range(n_requests)))


def shares(name: str, values: list[float]) -> dict[str, float]:
    """Median and 99th percentile, in ms."""
    return {
        f"{name}_p50_ms": median(values),
        f"{name}_p99_ms": quantiles(values, n=100, method="inclusive")[-1],
    }


def beside(times: Mapping[str, float], what: str) -> dict[str, float]:
    """The same times under the name that the reference has."""
    return {f"{name}_beside_{what}": ms for name, ms in times.items()}


def timed_ms(run: Callable[[], object], n_times: int) -> list[float]:
    """Of so many runs, one after the other."""
    took: list[float] = []
    for _ in range(n_times):
        started = time.perf_counter()
        run()
        took.append(1000.0 * (time.perf_counter() - started))
    return took


def wait_until_decided(caller: Caller) -> None:
    """Raises RuntimeError with the last answer where nothing is decided in time."""
    until = time.monotonic() + UP_TIMEOUT_S
    while True:
        try:
            return caller.decide()
        except RuntimeError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def main() -> None:
    given = arguments("POST /ai/predict/rl at 100 requests/s with the whole system up; a decision alone.")
    n_requests = QUICK_REQUESTS if given.quick else N_REQUESTS
    n_decisions = QUICK_DECISIONS if given.quick else N_DECISIONS
    with tempfile.TemporaryDirectory(prefix="levibot-rl-serve-") as folder:
        home = Path(folder) / "home"
        settings = Settings.load(home=home, replay_start=datetime.fromisoformat("2024-01-01T00:00:00+00:00"))
        policy = register(settings)
        account = policy.played_by.account(100.0)
        rng = np.random.default_rng(settings.seed)
        features = dict(
            zip(policy.feature_names, rng.standard_normal(len(policy.feature_names)).tolist(), strict=True)
        )
        row = policy.observation(features, account)[None, :]
        with running_system(home) as system, ThreadPoolExecutor(N_CONNECTIONS) as threads:
            caller = Caller(system, settings.symbols[0])
            wait_until_decided(caller)
            load_when_up = os.getloadavg()[0]
            # Connections and caches of a system that has just begun.
            latencies_ms(caller.decide, threads, QUICK_REQUESTS)

            def ours() -> Mapping[str, float]:
                request = shares("request", latencies_ms(caller.decide, threads, n_requests))
                decide = shares(
                    "decide",
                    timed_ms(lambda: policy.decide(policy.observation(features, account)), n_decisions),
                )
                # The limits are of our own times, and the ratios stand beside them.
                return {**request, **decide, **beside(request, "livez"), **beside(decide, "graph")}

            def reference() -> Mapping[str, float]:
                request = shares("request", latencies_ms(caller.live, threads, n_requests))
                decide = shares(
                    "decide", timed_ms(lambda: policy.session.run(None, {OBSERVATION: row}), n_decisions)
                )
                return {**beside(request, "livez"), **beside(decide, "graph")}

            result = compare(
                "rl_serve",
                ours,
                reference,
                what="GET /livez at the same rate over the same connections; the graph alone on a ready row",
                goal={"request_p99_ms": ("<=", 10.0), "decide_p99_ms": ("<=", 1.0)},
                repeats=QUICK_REPEATS if given.quick else REPEATS,
                packages=("onnxruntime", "ray", "fastapi", "numpy"),
                notes={
                    "rate_per_s": RATE_PER_S,
                    "connections": N_CONNECTIONS,
                    "requests": n_requests,
                    "decisions": n_decisions,
                    "features": len(policy.feature_names),
                    "load_average_when_up": load_when_up,
                },
            )
    report(result, as_json=given.json)


if __name__ == "__main__":
    main()
