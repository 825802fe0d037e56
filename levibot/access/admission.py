"""Lets a request in, or says why not: its key, the key's role, and how often it has asked."""

from __future__ import annotations

import math
from typing import Protocol

import structlog

from levibot.access.api_key import Role
from levibot.access.key_file import KeyFile
from levibot.errors import KeyRefused, RateLimited, RoleRefused, StoreError, StoreUnavailable

log = structlog.get_logger()
SCHEME = "bearer"
HINT = "Send `Authorization: Bearer KEY`; `python -m levibot keys create` makes one."


class Limits(Protocol):
    """How often each key may ask; `KeyLimiter` says it."""

    async def wait_s(self, key_id: str) -> float:
        """0 when the key may ask now, else the seconds until it may."""
        ...


class Admission:
    """What stands before every guarded route. keys: None where keys are switched off."""

    def __init__(self, keys: KeyFile | None, limits: Limits) -> None:
        self._keys = keys
        self._limits = limits

    @property
    def is_on(self) -> bool:
        return self._keys is not None

    async def admit(self, authorization: str | None, role: Role) -> str:
        """The identity of the key that may ask now; empty where keys are switched off.

        authorization: the header of that name. Raises KeyRefused, RoleRefused, RateLimited with
        `retry_after_s`, and StoreUnavailable where the file of keys cannot be read.
        """
        if self._keys is None:
            return ""
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != SCHEME or not text:
            raise KeyRefused("The request carries no API key.", hint=HINT)
        try:
            key = self._keys.find(text.strip())
        except StoreError as exc:
            # The caller learns nothing of our files.
            log.error("the API keys cannot be read", reason=str(exc))
            raise StoreUnavailable(
                "The API keys cannot be read now.", hint="The operator's log says why."
            ) from exc
        if key is None:
            # Whether it never was, is expired or revoked: one answer for all.
            raise KeyRefused("The API key is not valid.", hint=HINT)
        wait_s = await self._limits.wait_s(key.key_id)
        if wait_s > 0.0:
            raise RateLimited(
                f"The key {key.key_id} asks more often than its limit allows.",
                hint=f"Try again in {math.ceil(wait_s)} s.",
                retry_after_s=wait_s,
            )
        if not key.role.includes(role):
            raise RoleRefused(
                f"The key {key.key_id} is a {key.role}'s, and this takes an {role}'s.",
                hint="Ask an operator, or make a key with `--role operator`.",
            )
        return key.key_id
