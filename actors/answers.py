"""What an actor answers, its own errors as it raised them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ray.exceptions import RayTaskError

from levibot.errors import LeviBotError


async def answer_of(reference: Awaitable[Any]) -> Any:
    """What the call returns. What LeviBot's code raised over there is raised here, without Ray's wrapping.

    Raises RayError when the actor is dead or does not answer: only that may be cured by a repeat.
    """
    try:
        return await reference
    except RayTaskError as exc:
        if isinstance(exc.cause, LeviBotError):
            raise exc.cause from None
        raise
