"""A consumer of dead letters: `python dead_letter_consumer.py REDIS_URL CONSUMER`.

Replays until it is killed. Its handler leaves a trace of each delivery, and takes its time.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from levibot.resilience.dead_letters import DeadLetters
from levibot.stores.redis import open_redis
from levibot.telemetry.logging import configure_logging


async def main(url: str, consumer: str) -> None:
    configure_logging("ERROR", consumer)
    client = open_redis(url, timeout_s=5.0)
    letters = DeadLetters(client, handler_timeout_s=0.5, lease_margin_s=0.0)

    async def handle(message: Any) -> None:
        await client.hincrby("effects", message["n"], 1)
        await asyncio.sleep(0.01)

    while True:
        await letters.replay("trial", handle, consumer=consumer)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
