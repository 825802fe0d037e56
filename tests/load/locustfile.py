"""The users of a load run: `python -m tests.load` starts Locust with them, beside the system that they ask.

Never imported by anything else: Locust replaces the sockets of the process that it lives in.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import gevent
import redis
from locust import FastHttpUser, events, task

# Of one user.
REQUESTS_PER_S = 1.0


@events.init.add_listener
def _set_the_clock(**_: Any) -> None:
    """The run's time begins now: gevent's clock stood still while everything was imported."""
    gevent.get_hub().loop.update_now()


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    parser.add_argument("--key-file", default="", help="file of the API key to ask with")
    parser.add_argument("--symbols", default="", help="comma-separated: what is served")
    parser.add_argument("--seed", type=int, default=0, help="of who asks what and when")
    parser.add_argument(
        "--cold-redis",
        default="",
        help="URL of the Redis whose signals are taken away before each prediction",
    )


class Caller(FastHttpUser):
    """Asks mostly for predictions, and now and then for what a dashboard shows."""

    connection_timeout = network_timeout = 10.0
    n_users = 0

    def on_start(self) -> None:
        options = self.environment.parsed_options
        Caller.n_users += 1
        self.chance = random.Random(options.seed * 100_003 + Caller.n_users)
        self.symbols = options.symbols.split(",")
        self.key = {"authorization": f"Bearer {Path(options.key_file).read_text().strip()}"}
        self.cache = redis.Redis.from_url(options.cold_redis) if options.cold_redis else None
        self.next_at = time.monotonic()
        # All users are made at the same moment.
        gevent.sleep(self.wait_time())

    def wait_time(self) -> float:
        """Seconds to the next request. They are a Poisson process, however long the answers take.

        Users with an even pace, as Locust's `constant_throughput`, keep in step: it takes the time before the
        first request for a part of it, and so 100 users send their 100 requests of a second at once.
        """
        self.next_at += self.chance.expovariate(REQUESTS_PER_S)
        return max(0.0, self.next_at - time.monotonic())

    @task(12)
    def predict(self) -> None:
        symbol = self.chance.choice(self.symbols)
        if self.cache is not None:
            self.cache.delete(f"{symbol}:signal")
        with self._post("/ai/predict", {"symbol": symbol}) as answer:
            said = self._said(answer)
            if said is not None and (said.get("symbol"), said.get("freshness")) != (symbol, "FRESH"):
                answer.failure(f"{symbol} was asked for, and is {said.get('freshness')} {said.get('symbol')}")
            if said is not None and self.cache is not None:
                self._count(said["served_from"])

    @task(3)
    def predict_many(self) -> None:
        if self.cache is not None:
            self.cache.delete(*(f"{symbol}:signal" for symbol in self.symbols))
        with self._post("/ai/predict/batch", {"symbols": self.symbols}) as answer:
            said = self._said(answer)
            if said is None:
                return
            if [entry["symbol"] for entry in said["answers"]] != self.symbols or said["n_failed"]:
                answer.failure(f"{said['n_failed']} of {len(said['answers'])} symbols have no signal")

    @task(3)
    def features(self) -> None:
        symbol = self.chance.choice(self.symbols)
        with self._get(f"/features/{symbol}", "/features/{symbol}") as answer:
            said = self._said(answer)
            if said is not None and (said["symbol"], said["status"]) != (symbol, "FRESH"):
                answer.failure(f"the features of {symbol} are {said['status']}")

    @task(1)
    def events(self) -> None:
        with self._get("/events?limit=100", "/events") as answer:
            said = self._said(answer)
            if said is not None and not said["events"]:
                answer.failure("nothing has happened, says the event log")

    @task(1)
    def models(self) -> None:
        with self._get("/ai/models/list", "/ai/models/list") as answer:
            said = self._said(answer)
            if said is not None and said["active"] is None:
                answer.failure("no model is active, says the registry")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.post(path, json=body, headers=self.key, catch_response=True)

    def _get(self, path: str, name: str) -> Any:
        return self.client.get(path, name=name, headers=self.key, catch_response=True)

    def _said(self, answer: Any) -> dict[str, Any] | None:
        """What a 200 says. Anything else is left to Locust, which counts it as failed."""
        said: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return said

    def _count(self, served_from: str) -> None:
        """A line of its own in the statistics, without a time."""
        self.environment.events.request.fire(
            request_type="FROM",
            name=served_from,
            response_time=0,
            response_length=0,
            exception=None,
            context={},
        )
