"""The model versions of this run's registry, as the face shows them and switches between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from deployments.model import TRAIN
from levibot.clock import Clock, SystemClock
from levibot.errors import StoreUnavailable
from levibot.features.views import CORE
from levibot.learning.training import window_bars
from levibot.resilience.guard import Guard
from levibot.resilience.idempotency import Idempotency
from levibot.serving.fit import check_fits
from levibot.settings import Settings
from levibot.stores.connect import open_durable, open_registry
from levibot.stores.registry import ModelVersion, VersionInfo
from levibot.stores.registry_writes import RegistryWrites

# A listing reads every manifest, and an activation checks every file of its version.
TIMEOUT_S = 15.0
# How long a repeat gets the first result, how long a claim outlives a replica that died, and how long a
# repeat waits for the one at work.
KEPT_S, LEASE_S, WAIT_S = 86_400.0, 20.0, 5.0


@dataclass(frozen=True, slots=True)
class ModelList:
    """What the registry held at `as_of`, aware UTC.

    state: names the newest activation, for `Models.activate`. active: None before the first activation.
    history: activations, newest first. problem: empty, or why this is not what it holds now.
    """

    versions: Sequence[VersionInfo]
    active: str | None
    state: str
    history: Sequence[dict[str, Any]]
    as_of: datetime
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Activated:
    """The version that serves now, the one that served before, and whether the two are not the same."""

    version: str
    replaced: str | None
    is_changed: bool


class Models:
    """Reads and switches versions. State: the last list, which is shown while the registry is away."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._registry = open_registry(settings)
        self._redis = open_durable(settings)
        keys = Idempotency(self._redis, ttl_s=KEPT_S, lease_s=LEASE_S, wait_s=WAIT_S)
        self._writes = RegistryWrites(self._registry, keys)
        self._symbols = settings.symbols
        self._clock = clock or SystemClock()
        self._known: ModelList | None = None
        # One attempt: who asks sees the list, or asks again.
        self._guard = Guard("models", timeout_s=TIMEOUT_S, attempts=1, transient=(StoreUnavailable,))

    async def list(self) -> ModelList:
        """Every version and activation. Raises StoreUnavailable when the registry never answered."""
        try:
            known: ModelList = await self._guard.call(asyncio.to_thread, self._read)
        except StoreUnavailable as exc:
            if self._known is None:
                raise
            return replace(self._known, problem=str(exc))
        self._known = known
        return known

    async def card(self, version: str) -> str:
        """The model card, Markdown, after a check of the version's files. Raises RegistryError."""
        found: ModelVersion = await self._guard.call(asyncio.to_thread, self._load, version)
        return found.card

    async def activate(self, version: str, reason: str, instead_of: str | None) -> Activated:
        """Make a version the one that serves.

        instead_of: the `state` of the list that the caller has seen, None: whatever serves now.
        Raises UnknownVersion, RegistryConflict where the version does not fit this run or another activation
        came first, RegistryError on a version that is not whole, StoreUnavailable; nothing is changed then,
        except that a time-out does not tell: the same request again is safe, and says.
        """
        return await self._guard.call(self._activate, version, reason, instead_of)

    async def close(self) -> None:
        await self._redis.aclose()

    def _read(self) -> ModelList:
        as_of = self._clock.now()
        versions, history = self._registry.versions(), self._registry.history()
        state, active = self._registry.newest_activation()
        return ModelList(versions, active, state, history[::-1], as_of)

    def _load(self, version: str) -> ModelVersion:
        return self._registry.load(version)

    async def _activate(self, version: str, reason: str, instead_of: str | None) -> Activated:
        check_fits(
            version,
            await asyncio.to_thread(self._registry.metadata, version),
            view_version=CORE.version,
            symbols=self._symbols,
            online_bars=window_bars(),
            hint=f"Train one for it: {TRAIN}",
        )
        replaced = (await asyncio.to_thread(self._registry.newest_activation))[1]
        done = await self._writes.activate(version, reason, instead_of=instead_of)
        return Activated(version, replaced, is_changed=not done.is_repeat)
