"""Callers that ask for predictions at a steady pace, whatever comes of it, and once more where it fails."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
TRY_TIMEOUT_S = 3.0
BEGUN = "begun\n"
# Before the second try, where the answer does not say how long.
PAUSE_S = 0.25
FRESH_S = 2 * 3600.0
CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=50)


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt. status: 0 where no answer came. seconds: until it came, or was given up."""

    symbol: str
    status: int
    body: dict[str, Any]
    seconds: float
    retry_after_s: float

    @property
    def is_answer(self) -> bool:
        return self.status == 200


@dataclass
class Seen:
    """What the callers saw: of each request its tries, one or two. Written by one thread, read afterwards."""

    requests: list[list[Try]] = field(default_factory=list)

    @property
    def failed_at_first(self) -> int:
        return sum(not tries[0].is_answer for tries in self.requests)

    @property
    def failed(self) -> int:
        """Requests that failed although they were repeated once."""
        return sum(not tries[-1].is_answer for tries in self.requests)

    @property
    def stale(self) -> int:
        """Requests answered with a signal that says of itself that it is not of the newest bars."""
        return sum(tries[-1].body.get("freshness") == "STALE" for tries in self.requests)

    @property
    def slowest_s(self) -> float:
        """The longest that an answer took to come."""
        return max((one.seconds for tries in self.requests for one in tries if one.is_answer), default=0.0)

    def wrong(self) -> list[str]:
        """Everything that was answered and is not so, one sentence each."""
        problems: list[str] = []
        said: dict[tuple[str, str, str], tuple[float, float]] = {}
        for one in (one for tries in self.requests for one in tries if one.status):
            problems += wrong_of(one)
            if one.is_answer:
                body = one.body
                of = (body["symbol"], body["as_of"], body["model_version"])
                numbers = (body["probability_up"], body["target_position"])
                if said.setdefault(of, numbers) != numbers:
                    problems.append(f"{of} was told as {said[of]} and as {numbers}.")
        return problems


def wrong_of(one: Try) -> list[str]:
    """What is wrong about an answer taken alone."""
    body = one.body
    if not one.is_answer:
        is_error = set(body) == {"error"} and set(body["error"]) == {"code", "message", "hint", "trace_id"}
        return [] if is_error else [f"A {one.status} has no error in our shape: {body}."]
    problems = []
    if body["symbol"] != one.symbol:
        problems.append(f"{one.symbol} was asked for, and {body['symbol']} is answered.")
    if not 0.0 <= body["probability_up"] <= 1.0 or not -1.0 <= body["target_position"] <= 1.0:
        problems.append(f"{body['probability_up']} and {body['target_position']} are no signal.")
    if (body["freshness"] == "FRESH") != (body["feature_age_s"] <= FRESH_S):
        problems.append(f"{body['feature_age_s']} s old is called {body['freshness']}.")
    if datetime.fromisoformat(body["as_of"]).timestamp() % 3600.0:
        problems.append(f"{body['as_of']} is the close of no bar.")
    return problems


@contextmanager
def calling(url: str, headers: dict[str, str], symbols: Sequence[str], rate_per_s: float) -> Iterator[Seen]:
    """Requests in turn for these symbols until the block ends; then those under way are waited for.

    They come from a process of their own: what a test does meanwhile must not hold them up. What they saw is
    there after the block.
    """
    asked = json.dumps([f"{url}/ai/predict", headers, list(symbols), rate_per_s])
    command = [sys.executable, "-m", "tests.system.callers"]
    seen = Seen()
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        caller.stdin.write(asked + "\n")
        caller.stdin.flush()
        try:
            assert caller.stdout.readline() == BEGUN
            yield seen
        finally:
            caller.stdin.close()
            told = caller.stdout.read()
    seen.requests += [[Try(**one) for one in tries] for tries in json.loads(told)]


def main() -> None:
    """Call as the line on the standard input says until that is closed, and tell what was seen."""
    url, headers, symbols, rate_per_s = json.loads(sys.stdin.readline())
    seen, ended = Seen(), threading.Event()
    caller = threading.Thread(
        target=lambda: asyncio.run(_call(url, headers, symbols, rate_per_s, seen, ended))
    )
    caller.start()
    sys.stdin.read()
    ended.set()
    caller.join()
    json.dump([[asdict(one) for one in tries] for tries in seen.requests], sys.stdout)


async def _call(
    url: str,
    headers: dict[str, str],
    symbols: Sequence[str],
    rate_per_s: float,
    seen: Seen,
    ended: threading.Event,
) -> None:
    async with (
        httpx.AsyncClient(headers=headers, timeout=TRY_TIMEOUT_S, limits=CONNECTIONS) as client,
        asyncio.TaskGroup() as under_way,
    ):
        sys.stdout.write(BEGUN)
        sys.stdout.flush()
        started, n = time.monotonic(), 0
        while not ended.is_set():
            # In time even where answers are not: who waits for an answer before asking again sees no outage.
            under_way.create_task(_ask(client, url, symbols[n % len(symbols)], seen))
            n += 1
            await asyncio.sleep(max(0.0, started + n / rate_per_s - time.monotonic()))


async def _ask(client: httpx.AsyncClient, url: str, symbol: str, seen: Seen) -> None:
    tries = [await _try(client, url, symbol)]
    if not tries[0].is_answer:
        await asyncio.sleep(tries[0].retry_after_s)
        tries.append(await _try(client, url, symbol))
    seen.requests.append(tries)


async def _try(client: httpx.AsyncClient, url: str, symbol: str) -> Try:
    started = time.monotonic()
    try:
        async with asyncio.timeout(TRY_TIMEOUT_S):
            answer = await client.post(url, json={"symbol": symbol})
        after_s = float(answer.headers.get("retry-after", PAUSE_S))
        return Try(symbol, answer.status_code, answer.json(), time.monotonic() - started, after_s)
    except (httpx.HTTPError, TimeoutError, ValueError) as exc:
        return Try(symbol, 0, {"problem": repr(exc)}, time.monotonic() - started, PAUSE_S)


if __name__ == "__main__":
    main()
