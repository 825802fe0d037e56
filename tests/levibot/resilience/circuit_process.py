"""A process with one circuit on a shared board: `python circuit_process.py REDIS_URL RESET_S`.

Answers each line of its input by one line: `fail` and `succeed` call the place and say what came of it,
`state` says what the circuit is.
"""

from __future__ import annotations

import asyncio
import sys

from levibot.errors import StoreUnavailable
from levibot.resilience.circuit import Circuit
from levibot.resilience.circuit_board import CircuitBoard
from levibot.stores.redis import open_redis
from levibot.telemetry.logging import configure_logging


def call(circuit: Circuit, outcome: str) -> str:
    try:
        with circuit.passage():
            if outcome == "fail":
                raise StoreUnavailable("planted")
    except StoreUnavailable as exc:
        return "failed" if exc.message == "planted" else "refused"
    return "succeeded"


async def main(url: str, reset_s: float) -> None:
    configure_logging("ERROR", "circuit")
    client = open_redis(url, timeout_s=0.5)
    async with CircuitBoard(client) as board:
        circuit = Circuit("place", failure_threshold=3, reset_s=reset_s, shared=board)
        await board.exchange()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            sys.stdout.write((circuit.state if line == "state" else call(circuit, line)) + "\n")
            sys.stdout.flush()
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
