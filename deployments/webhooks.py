"""Takes signed webhooks: each once, into the queue that the actor webhook_intake works off."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from deployments.webhook_schemas import WebhookSignal
from levibot.access.admission import Limits
from levibot.access.webhook_signature import check_signature
from levibot.clock import Clock, SystemClock
from levibot.errors import KeyRefused, RateLimited, SourceDisabled, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.resilience.idempotency import Done, Idempotency, fingerprint
from levibot.settings import Settings
from levibot.stores.connect import open_durable
from levibot.stores.webhook_queue import WebhookQueue
from levibot.telemetry.metrics import DEFAULT

# A sender that repeats for longer than this signs a new webhook.
KEPT_S, LEASE_S, WAIT_S = 86_400.0, 10.0, 2.0
# All senders together are one caller.
ACCOUNT = "webhook"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A webhook that is kept. event_id: of the event that it becomes. is_repeat: it was kept before."""

    event_id: str
    is_repeat: bool


class Webhooks:
    """Checks, counts and queues webhooks. The fallback without Redis is an error: the sender repeats.

    market: whose time the event has, beside the instant at which it came. clock: the machine's.
    """

    def __init__(self, settings: Settings, limits: Limits, market: Clock, clock: Clock | None = None) -> None:
        self._secret = settings.webhook_secret
        self._limits = limits
        self._market = market
        self._clock = clock or SystemClock()
        self._redis = open_durable(settings)
        self._queue = WebhookQueue(self._redis)
        self._keys = Idempotency(self._redis, ttl_s=KEPT_S, lease_s=LEASE_S, wait_s=WAIT_S)
        self._guard = Guard(
            "webhooks",
            timeout_s=2 * settings.store_timeout_s,
            attempts=1,
            failure_threshold=3,
            reset_s=2.0,
            transient=(StoreUnavailable,),
        )

    async def close(self) -> None:
        await self._redis.aclose()

    async def check(self, timestamp: str, signature: str, body: bytes) -> None:
        """Raises KeyRefused on a wrong signature, RateLimited, SourceDisabled where none are taken."""
        if self._secret is None:
            raise SourceDisabled(
                "Webhooks are switched off here.",
                hint="The operator sets LEVIBOT_WEBHOOK_SECRET to take them.",
            )
        try:
            check_signature(self._secret, timestamp, signature, body, self._clock.now())
        except KeyRefused:
            DEFAULT.webhooks.labels("refused").inc()
            raise
        wait_s = await self._limits.wait_s(ACCOUNT)
        if wait_s > 0.0:
            raise RateLimited("There are more webhooks than the limit allows.", retry_after_s=wait_s)

    async def accept(self, signal: WebhookSignal, idempotency_key: str, trace_id: str) -> Accepted:
        """Keep a webhook, once for its key and sender.

        Raises UsageError where the key came with another webhook, NotReady while the same one is being
        kept, StoreUnavailable.
        """
        done: Done = await self._guard.call(self._accept, signal, idempotency_key, trace_id)
        DEFAULT.webhooks.labels("repeated" if done.is_repeat else "accepted").inc()
        return Accepted(done.result, done.is_repeat)

    async def _accept(self, signal: WebhookSignal, idempotency_key: str, trace_id: str) -> Done:
        key = hashlib.sha256(f"{signal.sender}\n{idempotency_key}".encode()).hexdigest()
        said: dict[str, Any] = signal.model_dump(mode="json")
        message = {
            **said,
            # A repeat after a lost answer is the same event.
            "event_id": key[:32],
            "trace_id": trace_id,
            "received_at": self._clock.now().astimezone(UTC).isoformat(),
            "market_time": self._market.now().astimezone(UTC).isoformat(),
        }

        async def keep(_: int) -> str:
            await self._queue.push(message)
            return str(message["event_id"])

        return await self._keys.run(f"webhook:{key}", fingerprint(said), keep)
