"""Webhooks that were taken and not yet worked on: a stream in the durable Redis, `webhook:signals`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from levibot.errors import StoreUnavailable
from levibot.stores.redis import ask, translated

KEY = "webhook:signals"
GROUP = "intake"
FIELD = b"m"
MAX_WAITING = 10_000

# KEYS: the stream. ARGV: the message, the limit. Returns the entry's id, or nothing when the stream is full.
PUSH = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return false
end
return redis.call('XADD', KEYS[1], '*', 'm', ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message of the queue. entry_id: names it to `done`. message: None where it is not JSON."""

    entry_id: bytes
    message: dict[str, Any] | None
    text: str


class WebhookQueue:
    """The queue on one server. State: none; many may push, one consumer takes.

    max_waiting: more are refused, so that a consumer that stands still does not fill the server.
    """

    def __init__(self, client: Redis, *, max_waiting: int = MAX_WAITING) -> None:
        self._client = client
        self._max_waiting = max_waiting
        self._push = client.register_script(PUSH)

    async def push(self, message: dict[str, Any]) -> None:
        """Keep a message; returns once Redis has it. Raises StoreUnavailable when it is away or full."""
        text = json.dumps(message, allow_nan=False)
        if await ask("queue a webhook", self._push([KEY], [text, self._max_waiting])) is None:
            raise StoreUnavailable(
                f"{self._max_waiting} webhooks wait already, the limit of the queue.",
                hint="Send it again later, with the same idempotency key.",
                retry_after_s=5.0,
            )

    async def take(self, consumer: str, limit: int, wait_s: float) -> list[Waiting]:
        """The oldest messages: first those that this consumer took in an earlier life and never finished.

        Waits up to `wait_s`, which is below the client's time-out, for the first one.
        """
        await self._make_group()
        for start, wait_ms in (("0", None), (">", max(1, round(wait_s * 1000)))):
            read = self._client.xreadgroup(GROUP, consumer, {KEY: start}, count=limit, block=wait_ms)
            answer = await ask("take webhooks", read)
            entries: Sequence[Any] = _entries(answer)
            if entries:
                return [_waiting(entry_id, fields) for entry_id, fields in entries]
        return []

    async def done(self, entry_ids: Sequence[bytes]) -> None:
        """Forget messages: they are where they belong."""
        if entry_ids:
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.xack(KEY, GROUP, *entry_ids)
                pipeline.xdel(KEY, *entry_ids)
                await ask("finish webhooks", pipeline.execute())

    async def count(self) -> int:
        """How many are not finished."""
        return int(await ask("count webhooks", self._client.xlen(KEY)))

    async def _make_group(self) -> None:
        with translated("make the group of webhooks"):
            try:
                await self._client.xgroup_create(KEY, GROUP, id="0", mkstream=True)
            except ResponseError as exc:
                if "BUSYGROUP" not in str(exc):
                    raise


def _entries(answer: Any) -> list[Any]:
    """The entries of the one stream in an answer; protocol 3 has a mapping where protocol 2 has a list."""
    if not answer:
        return []
    (found,) = answer.values() if isinstance(answer, dict) else (answer[0][1],)
    # Protocol 3 wraps the entries of a stream once more.
    return list(found[0]) if found and isinstance(found[0], list) else list(found)


def _waiting(entry_id: bytes, fields: Any) -> Waiting:
    text = (fields or {}).get(FIELD, b"").decode(errors="replace")
    try:
        message = json.loads(text)
    except ValueError:
        message = None
    return Waiting(entry_id, message if isinstance(message, dict) else None, text)
