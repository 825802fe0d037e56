"""A group of three data nodes under three Sentinels on loopback, from the files in ops/redis."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import redis

from levibot.stores.identity import Identity
from levibot.stores.server_process import LOOPBACK, ServerProcess, free_port
from tests.servers.debian_redis import PASSWORD, RedisNode, RedisPrograms, is_up, plain_client

OPS = Path(__file__).parents[2] / "ops" / "redis"
SENTINEL_PASSWORD = "another-password-of-tests"
SERVICE = "levibot"
SETTLED_TIMEOUT_S = 30.0


class RedisGroup:
    """The processes of one group. State: the nodes, and the Sentinels by their port."""

    def __init__(self, programs: RedisPrograms, folder: Path) -> None:
        self._folder = folder
        self._programs = programs
        include = f'include "{OPS / "redis.conf"}"\n'
        first = RedisNode(programs, folder / "node-0", include)
        follow = include + f"replicaof {LOOPBACK} {first.port}\n"
        self.nodes = [first, *(RedisNode(programs, folder / f"node-{n}", follow) for n in (1, 2))]
        self.sentinels: dict[int, ServerProcess] = {}

    @property
    def url(self) -> str:
        hosts = ",".join(f"{LOOPBACK}:{port}" for port in self.sentinels)
        query = f"sentinel_password={SENTINEL_PASSWORD}"
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}?{query}"

    def start(self) -> None:
        """Return when every replica follows and every Sentinel knows the whole group."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait()
        for n in range(3):
            self._start_sentinel(n)
        for port, process in self.sentinels.items():
            process.wait_for(lambda port=port: is_up(port, SENTINEL_PASSWORD))
        self.wait_until_settled()

    def stop(self) -> None:
        for process in self.sentinels.values():
            process.stop(signal.SIGKILL)
        for node in self.nodes:
            node.stop()

    def primary(self) -> RedisNode:
        """The node that the first Sentinel names, whether it lives or not."""
        port = int(self._ask(next(iter(self.sentinels)))["port"])
        return next(node for node in self.nodes if node.port == port)

    def wait_until_settled(self) -> None:
        """Return when the Sentinels agree and two replicas follow the primary without lag."""
        deadline = time.monotonic() + SETTLED_TIMEOUT_S
        while not self._is_settled():
            assert time.monotonic() < deadline, "the group did not settle"
            time.sleep(0.1)

    def _is_settled(self) -> bool:
        views = [self._ask(port) for port in self.sentinels]
        if len({view["port"] for view in views}) != 1:
            return False
        if any((v["num-slaves"], v["num-other-sentinels"], v["flags"]) != (2, 2, "master") for v in views):
            return False
        try:
            with self.primary().client() as client:
                status: dict[str, Any] = client.info("replication")
        except redis.RedisError:
            return False
        states = [status.get(f"slave{n}", {}).get("state") for n in (0, 1)]
        return status["role"] == "master" and states == ["online", "online"]

    def _ask(self, port: int) -> dict[str, Any]:
        with plain_client(port, SENTINEL_PASSWORD) as client:
            answer: dict[str, Any] = client.sentinel_master(SERVICE)
            return answer

    def _start_sentinel(self, n: int) -> None:
        port = free_port()
        filled = {
            "HOST": LOOPBACK,
            "PORT": port,
            "PRIMARY_HOST": LOOPBACK,
            "PRIMARY_PORT": self.nodes[0].port,
            "PASSWORD": PASSWORD,
            "SENTINEL_PASSWORD": SENTINEL_PASSWORD,
        }
        text = (OPS / "sentinel.conf").read_text()
        for name, value in filled.items():
            text = text.replace(f"@{name}@", str(value))
        path = self._folder / f"sentinel-{n}.conf"
        path.write_text(text)
        command = [*self._programs.sentinel, str(path), "--sentinel"]
        self.sentinels[port] = ServerProcess.start(
            "sentinel", command, self._folder / f"sentinel-{n}.log", Identity()
        )
