"""What a Redis-protocol server can do beyond Redis 7.0, asked of the server itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from levibot.stores.redis import ask, translated


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One server. engine: `redis` or `valkey`; version: its own, not the one it is compatible with.

    has_field_ttl: a field of a hash may expire (HPEXPIRE). has_hsetex: fields and their life are set in one
    command. has_msetex: the same for several keys.
    """

    engine: str
    version: str
    has_field_ttl: bool
    has_hsetex: bool
    has_msetex: bool


class ServerCapabilities:
    """Asks the server once, at the first question. State: its answer.

    Behind Sentinels the answer is that of the primary at that time: the nodes of a group run one version.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._known: Capabilities | None = None

    async def get(self) -> Capabilities:
        """What the server can do. Raises StoreUnavailable or StoreError."""
        if self._known is None:
            self._known = await self._ask()
        return self._known

    async def _ask(self) -> Capabilities:
        about: dict[str, Any] = await ask("read its version", self._client.info("server"))
        has_field_ttl, has_hsetex, has_msetex = await self._knows(("HPEXPIRE", "HSETEX", "MSETEX"))
        is_valkey = "valkey_version" in about
        return Capabilities(
            engine="valkey" if is_valkey else "redis",
            version=str(about["valkey_version" if is_valkey else "redis_version"]),
            has_field_ttl=has_field_ttl,
            has_hsetex=has_hsetex,
            has_msetex=has_msetex,
        )

    async def _knows(self, commands: Sequence[str]) -> list[bool]:
        # One question a command: in a common answer redis-py loses the places of the unknown ones.
        with translated("list its commands"):
            async with self._client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command("COMMAND INFO", command)
                answers = await pipe.execute()
        return [any(entry for entry in answer) for answer in answers]
