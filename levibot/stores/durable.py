"""Writes that must not be lost: what a server needs for them, and how one is confirmed by a replica."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from levibot.errors import SettingsError, StoreUnavailable
from levibot.stores.redis import ask, has_replicas, translated

CONFIRM_S = 1.0


async def write_durably(
    client: Redis,
    what: str,
    queue: Callable[[Pipeline], object],
    *,
    replicas: int | None = None,
    confirm_s: float = CONFIRM_S,
) -> list[Any]:
    """Send what `queue` puts into a pipeline; return the answers once replicas hold the writes.

    queue: gets the pipeline; a registered script is called with `client=pipe`.
    replicas: how many must confirm; None means one behind Sentinels and none for a single server. Behind
    Sentinels a write that returns survives the loss of any one node, also of a primary that was frozen
    or cut off meanwhile; on a single server it survives the death of the process.
    Raises StoreUnavailable when the replicas do not confirm within `confirm_s`: the write may or may not be
    kept then, and is safe to repeat only if doing it twice does no harm. confirm_s must be below the
    client's `timeout_s`.
    """
    wanted = int(has_replicas(client)) if replicas is None else replicas
    # No transaction: inside one, WAIT returns at once.
    async with client.pipeline(transaction=False) as pipe:
        queued = queue(pipe)
        if inspect.isawaitable(queued):
            await queued
        if wanted:
            pipe.execute_command("WAIT", wanted, round(confirm_s * 1000))
        with translated(what):
            # Unraised, an error does not carry the whole command in its text.
            answers = await pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
    if not wanted:
        return answers
    confirmed = answers.pop()
    if confirmed < wanted:
        raise StoreUnavailable(
            f"Redis did not make sure of a write ({what}): {confirmed} of {wanted} replicas confirmed it "
            f"within {confirm_s:g} s."
        )
    return answers


async def check_durable(client: Redis) -> None:
    """Raises SettingsError when the server may throw away keys to make room for others."""
    memory: dict[str, Any] = await ask("read its memory policy", client.info("memory"))
    limit, policy = int(memory["maxmemory"]), memory["maxmemory_policy"]
    if limit and policy != "noeviction":
        raise SettingsError(
            f"The Redis of weights, dead letters and idempotency keys evicts: maxmemory-policy is {policy} "
            f"with maxmemory {limit}, and must be noeviction.",
            hint="Set LEVIBOT_REDIS_CACHE_URL to this server, LEVIBOT_REDIS_URL to one that does not evict.",
        )
