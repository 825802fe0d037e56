"""Writes to the model registry that are done once, however often and by whomever they are asked for."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from levibot.errors import StoreError
from levibot.resilience.idempotency import Done, Idempotency, fingerprint
from levibot.stores.registry import Registry, content_key

log = structlog.get_logger()


class RegistryWrites:
    """Publications and activations behind idempotency keys: the first writer wins, a repeat gets its result.

    The fallback where Redis does not answer is the write without a key, and the log says so: an hour of
    training is not thrown away for it. What a version was published under stands in its manifest too, so a
    repeat whose first writer died between its work and its result finds it there.
    Both raise what the registry raises, and NotReady while another writer is at the same request.
    """

    def __init__(self, registry: Registry, keys: Idempotency) -> None:
        self._registry = registry
        self._keys = keys
        # One Redis may serve several registries.
        self._place = hashlib.sha256(registry.files.where.encode()).hexdigest()[:16]

    async def publish(
        self, metadata: Mapping[str, Any], files: Mapping[str, bytes], key: str | None = None
    ) -> Done:
        """Publish a version; the result is its name.

        key: as of `Registry.publish`; None: the same content is the same version.
        """
        key = content_key(metadata, files) if key is None else key
        return await self._once(
            "publish",
            key,
            write=lambda: self._registry.publish(metadata, files, key),
            is_done=lambda version: self._registry.key_of(version) == key,
        )

    async def activate(
        self,
        version: str,
        reason: str,
        *,
        instead_of: str | None = None,
        decision: Mapping[str, Any] | None = None,
    ) -> Done:
        """Make a version the one that serves; the result is its name. Parameters as `Registry.activate`.

        What is asked for is to replace the activation `instead_of`, or the one that is the newest now: once
        the version serves, a repeat changes nothing, and after another one has served meanwhile it is a new
        request. A decision is always written down, also one that leaves the version that serves.
        """
        newest, active = await asyncio.to_thread(self._registry.newest_activation)
        if active == version and decision is None:
            return Done(version, is_repeat=True)
        expected = newest if instead_of is None else instead_of

        def activate() -> str:
            self._registry.activate(version, reason, instead_of=expected, decision=decision)
            return version

        return await self._once(
            "activate",
            f"{version}:after:{expected}",
            write=activate,
            is_done=lambda version: self._registry.newest_activation()[1] == version,
        )

    async def _once(
        self, what: str, request: str, *, write: Callable[[], str], is_done: Callable[[str], bool]
    ) -> Done:
        has_failed = False

        async def operation(_: int) -> str:
            nonlocal has_failed
            try:
                return await asyncio.to_thread(write)
            except BaseException:
                has_failed = True
                raise

        try:
            key = f"registry:{self._place}:{what}:{request}"
            done = await self._keys.run(key, fingerprint(request), operation)
        except StoreError as exc:
            if has_failed:
                raise
            log.warning("a registry write goes without its idempotency key", write=what, reason=str(exc))
            return Done(await asyncio.to_thread(write), is_repeat=False)
        # The registry is the truth: it may have been emptied, and a name have been given anew.
        if done.is_repeat and not await asyncio.to_thread(is_done, done.result):
            log.warning("a registry write is done again", write=what, was=done.result)
            return Done(await asyncio.to_thread(write), is_repeat=False)
        return done
