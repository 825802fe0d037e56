"""A job that hangs in the middle of its publication: `python -m … REDIS_URL FOLDER LEASE_S`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from levibot.resilience.idempotency import Idempotency
from levibot.stores.model_files import ModelFolder
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.registry_writes import RegistryWrites

METADATA, FILES = {"seed": 7}, {"model.txt": b"tree\n"}


class StopsMidway(Registry):
    """A registry that says that it has begun, and then is busy."""

    def publish(self, metadata: Mapping[str, Any], files: Mapping[str, bytes], key: str | None = None) -> str:
        sys.stdout.write("begun\n")
        sys.stdout.flush()
        time.sleep(600.0)
        return super().publish(metadata, files, key)


async def main(url: str, folder: Path, lease_s: float) -> None:
    keys = Idempotency(open_redis(url, timeout_s=5.0), ttl_s=60.0, lease_s=lease_s)
    await RegistryWrites(StopsMidway(ModelFolder(folder)), keys).publish(METADATA, FILES)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
