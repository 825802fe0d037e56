"""`POST /ai/predict` with the whole system up, beside graphs that do nothing and a plain server.

Hot: a signal that the replica holds or that Redis has. Cold: past both, through the face and the router, as
the signal is taken away from Redis all the time. References, in the same run: an ingress of Ray Serve that
does nothing and a graph of three such hops, on the same cluster with the same options
(`benchmarks/noop_graphs.py`), and one process of uvicorn and FastAPI that asks the same models at every
request (`benchmarks/plain_server.py`). Latencies are of requests that are due at a steady rate, each from its
own instant; throughput is of connections that each ask again at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from threading import Event, Thread
from urllib.request import Request, urlopen

import redis

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, p95, report
from benchmarks.http_load import Question, latencies_ms, requests_per_s
from benchmarks.noop_graphs import ONE_HOP, THREE_HOPS
from benchmarks.running_system import ROOT, RunningSystem, running_system
from levibot.settings import Settings
from levibot.stores.embedded import endpoints
from levibot.stores.server_process import free_port

N_CONNECTIONS, N_AT_ONCE = 8, 32
# Of latencies: well below what the slower of two can do, or its queue is what is measured.
HOT_PER_S, COLD_PER_S = 100.0, 25.0
SECONDS, QUICK_SECONDS = 5.0, 2.0
UP_TIMEOUT_S = 60.0
# A bar's signals are written once, a bar is a second here: hardly one is found.
TAKEN_AWAY_EVERY_S = 0.002
SYMBOL = "BTCUSDT"


def measured(name: str, question: Question, rate_per_s: float, seconds: float) -> dict[str, float]:
    """Median and 95th percentile in ms at a rate, and requests a second."""
    took = latencies_ms(question, rate_per_s, seconds, N_CONNECTIONS)
    return {
        f"{name}_p50_ms": median(took),
        f"{name}_p95_ms": p95(took),
        f"{name}_requests_per_s": requests_per_s(question, seconds, N_AT_ONCE),
    }


@dataclass
class Predictions:
    """Counts where fresh signals came from."""

    served_from: Counter[str] = field(default_factory=Counter)

    def of(self, system: RunningSystem) -> Question:
        """The question for one."""
        return Question(f"{system.url}/ai/predict", system.headers, {"symbol": SYMBOL}, self._is_right)

    def _is_right(self, body: bytes) -> bool:
        answer = json.loads(body)
        self.served_from[answer["served_from"]] += 1
        return bool(answer["freshness"] == "FRESH")

    def share(self, *places: str) -> float:
        """Of all, what came from these."""
        return sum(self.served_from[place] for place in places) / self.served_from.total()


def nothing(system: RunningSystem, path: str) -> Question:
    """For what a graph says that does nothing."""
    return Question(f"{system.url}{path}/", {}, {"symbol": SYMBOL}, lambda body: b"is_done" in body)


def deploy_noop_graphs(home: Path) -> None:
    """On the system's own cluster, as its second shell does it."""
    command = f". {home}/env.sh; exec {sys.executable} -m benchmarks.noop_graphs"
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True)


@contextmanager
def plain_server(home: Path) -> Iterator[Question]:
    """The alternative, on a port of its own, for as long as the block lasts."""
    port = free_port()
    command = f". {home}/env.sh; exec {sys.executable} -m benchmarks.plain_server {home} {port}"
    process = subprocess.Popen(["bash", "-c", command], cwd=ROOT)
    question = Question(
        f"http://127.0.0.1:{port}", {}, {"symbol": SYMBOL}, lambda body: b"probability_up" in body
    )
    try:
        wait_until_right(question)
        yield question
    finally:
        process.terminate()
        process.wait(UP_TIMEOUT_S)


@contextmanager
def taken_away(redis_url: str) -> Iterator[None]:
    """Redis has no signal of the symbol, however often one is written, until the block ends."""
    ended = Event()

    def take() -> None:
        client = redis.Redis.from_url(redis_url)
        while not ended.wait(TAKEN_AWAY_EVERY_S):
            client.delete(f"{SYMBOL}:signal")

    taking = Thread(target=take)
    taking.start()
    try:
        yield
    finally:
        ended.set()
        taking.join()


def wait_until_right(question: Question) -> None:
    """Raises RuntimeError where no answer is right in time."""
    body = json.dumps(question.body).encode()
    headers = {"content-type": "application/json", **question.headers}
    until = time.monotonic() + UP_TIMEOUT_S
    while time.monotonic() < until:
        try:
            with urlopen(Request(question.url, body, headers), timeout=UP_TIMEOUT_S) as answer:
                if question.is_right(answer.read()):
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{question.url} gave no right answer within {UP_TIMEOUT_S:g} s.")


def main() -> None:
    given = arguments("POST /ai/predict hot and cold, beside no-op graphs of Ray Serve and a plain server.")
    seconds = QUICK_SECONDS if given.quick else SECONDS
    hot, cold = Predictions(), Predictions()
    with tempfile.TemporaryDirectory(prefix="levibot-serving-") as folder, ExitStack() as ending:
        home = Path(folder) / "home"
        system = ending.enter_context(running_system(home))
        redis_url = endpoints(Settings.load(home=home)).redis_cache_url
        deploy_noop_graphs(home)
        plain = ending.enter_context(plain_server(home))
        asked = hot.of(system), cold.of(system), nothing(system, ONE_HOP), nothing(system, THREE_HOPS)
        for question in asked:
            wait_until_right(question)
            measured("", question, COLD_PER_S, QUICK_SECONDS)
        hot.served_from.clear()
        cold.served_from.clear()
        of_hot, of_cold, one_hop, three_hops = asked

        def ours() -> Mapping[str, float]:
            warm = measured("hot", of_hot, HOT_PER_S, seconds)
            with taken_away(redis_url):
                past = measured("cold", of_cold, COLD_PER_S, seconds)
            return {**warm, **past, "hot_beside_plain_requests_per_s": warm["hot_requests_per_s"]}

        def reference() -> Mapping[str, float]:
            return {
                **measured("hot", one_hop, HOT_PER_S, seconds),
                **measured("cold", three_hops, COLD_PER_S, seconds),
                "hot_beside_plain_requests_per_s": requests_per_s(plain, seconds, N_AT_ONCE),
            }

        result = compare(
            "serving",
            ours,
            reference,
            what="an ingress that does nothing; three hops that do nothing; uvicorn and FastAPI in one "
            "process that asks the same models",
            goal={
                "hot_p50_ms": ("<=", 1.3),
                "hot_p95_ms": ("<=", 1.3),
                "hot_requests_per_s": (">=", 0.75),
                "cold_p50_ms": ("<=", 1.3),
                "cold_p95_ms": ("<=", 1.3),
                "hot_beside_plain_requests_per_s": (">=", 1.5),
            },
            repeats=QUICK_REPEATS if given.quick else REPEATS,
            packages=("ray", "fastapi", "uvicorn", "lightgbm", "xgboost-cpu"),
            notes={
                "hot_per_s": HOT_PER_S,
                "cold_per_s": COLD_PER_S,
                "connections": N_CONNECTIONS,
                "connections_at_once": N_AT_ONCE,
                "seconds": seconds,
                "load_average_when_up": os.getloadavg()[0],
            },
        )
    shares = {"hot_share": hot.share("l1", "cache"), "cold_share": cold.share("computed")}
    report(replace(result, notes={**result.notes, **shares}), as_json=given.json)


if __name__ == "__main__":
    main()
