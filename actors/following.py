"""The loop of an actor that follows something for ever: whatever ends it, it begins again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from levibot.errors import LeviBotError

log = structlog.get_logger()


async def follow_for_ever(
    what: str, follow: Callable[[], Awaitable[None]], note: Callable[[str], None], pause_s: float
) -> None:
    """Await `follow()` again and again, `pause_s` apart.

    what: the name of it in the log. note: told each problem that ended it, as one sentence.
    """
    while True:
        try:
            await follow()
        except LeviBotError as exc:
            note(str(exc))
            log.warning(f"{what} is waiting", reason=str(exc))
        except Exception as exc:
            note(f"{type(exc).__name__}: {exc}")
            log.error(f"{what} failed and begins again", exc_info=exc)
        await asyncio.sleep(pause_s)
