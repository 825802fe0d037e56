"""From a model that was made to a version of the registry, live or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from levibot.errors import RegistryError
from levibot.learning.promotion import Decision, Rival
from levibot.learning.signal import SignalModel
from levibot.resilience.idempotency import Idempotency
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_registry
from levibot.stores.registry import Registry, content_key
from levibot.stores.registry_writes import RegistryWrites

# How long a repeat gets the first result, how long a claim outlives a job that was killed, and how long a job
# waits for another that uploads the same: longer than the claim of a dead one.
KEPT_S, LEASE_S, WAIT_S = 86_400.0, 20.0, 60.0
# What becomes of the version: stored only, live in any case, or live where the rule lets it.
Mode = Literal["publish", "activate", "promote"]
# What a decision found out; the rest of the metadata says what the model is.
FOUND = ("days", "net_sharpe", "gross_sharpe", "psr", "min_track_record_days")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Made:
    """A model before it is a version: what it says of itself, and its files."""

    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]

    def judged(self, decision: Decision) -> dict[str, Any]:
        """The metadata with what the decision found."""
        numbers = decision.numbers
        return {
            **self.metadata,
            "metrics": {name: numbers[name] for name in FOUND if name in numbers},
            "trials": numbers.get("deflated_sharpe", {}),
            "promotion": decision.to_json(),
        }


def rival_of(registry: Registry) -> Rival | None:
    """The version that serves, None before the first. Raises RegistryError on a broken pointer."""
    version = registry.active()
    if version is None:
        return None
    try:
        stored = registry.load(version)
        return Rival(version, SignalModel.from_files(stored.metadata, stored.files))
    except RegistryError as exc:
        return Rival(version, None, exc.message)


async def register(settings: Settings, made: Made, mode: Mode, rule: Callable[[], Decision]) -> str:
    """Publish the version, and make it live where the mode, or the decision that `rule` comes to, says so.

    Returns the version. A job that is run again, and learns the same again, makes no second version, and what
    was decided stands. A version that was kept back is in the history as a confirmation of the one that
    serves. Raises RegistryConflict where another version went live during the judgement.
    """
    registry = open_registry(settings)
    redis = open_durable(settings)
    try:
        writes = RegistryWrites(registry, Idempotency(redis, ttl_s=KEPT_S, lease_s=LEASE_S, wait_s=WAIT_S))
        # Of what the model is, not of what was found out about it: that is another each time.
        key = content_key(made.metadata, made.files)
        known = await asyncio.to_thread(registry.published_under, key)
        seen, active = await asyncio.to_thread(registry.newest_activation)
        metadata: Mapping[str, Any] = made.metadata
        if known is not None:
            metadata = await asyncio.to_thread(registry.metadata, known)
            log.info("this model was published before", version=known)
        elif mode == "promote":
            metadata = made.judged(await asyncio.to_thread(rule))
        version = known or str((await writes.publish(metadata, made.files, key)).result)
        if mode == "activate":
            await writes.activate(version, "trained")
        elif mode == "promote":
            await _follow(writes, registry, version, metadata, seen, active)
    finally:
        await redis.aclose()
    return version


async def _follow(
    writes: RegistryWrites,
    registry: Registry,
    version: str,
    metadata: Mapping[str, Any],
    seen: str,
    active: str | None,
) -> None:
    """Do what was decided on a version, once."""
    decision = metadata.get("promotion")
    if decision is None:
        raise RegistryError(
            f"Version {version} is this very model, published without a decision.",
            hint="Activate it by hand, or train on newer data.",
        )
    of_version = {**decision, "version": version}
    history = await asyncio.to_thread(registry.history)
    if any(entry.get("decision") == of_version for entry in history):
        log.info("what was decided was done before", version=version, reason=decision["reason"])
        return
    live = version if decision["is_promoted"] else active
    log.info("decided", version=version, promoted=decision["is_promoted"], reason=decision["reason"])
    if live is not None:
        await writes.activate(live, decision["reason"], instead_of=seen, decision=of_version)
