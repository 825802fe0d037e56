"""A writer that claims a key, says so and never ends: `python idempotent_writer.py REDIS_URL KEY LEASE_S`."""

from __future__ import annotations

import asyncio
import sys

from levibot.resilience.idempotency import Idempotency, fingerprint
from levibot.stores.redis import open_redis


async def hang(token: int) -> None:
    sys.stdout.write(f"claimed {token}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def main(url: str, key: str, lease_s: float) -> None:
    client = open_redis(url, timeout_s=5.0)
    await Idempotency(client, ttl_s=60.0, lease_s=lease_s).run(key, fingerprint({"n": 1}), hang)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
