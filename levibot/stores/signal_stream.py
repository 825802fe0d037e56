"""The signals of all symbols as they came: a Redis stream of bounded length.

`OnlineStore.write_signals` appends to it in the script that writes a signal, so that none is in one place
only. An entry's id is the server's time and a count; it grows, also after the server came back empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from levibot.errors import StoreError, UsageError
from levibot.stores.redis import ask, translated
from levibot.stores.signals import Signal

SIGNALS = "signals"
# About 3 MB, with what the members said.
STREAM_LENGTH = 2_000
STREAM_TTL_MS = 86_400_000
BEGINNING = "0-0"
_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Told:
    """A signal, and the id that names its place in the stream."""

    id: str
    signal: Signal


@dataclass(frozen=True, slots=True)
class Page:
    """What came after a place.

    told: oldest first, of this market and view. position: the place after them. is_whole: false where
    entries after the place asked for may be gone.
    """

    told: Sequence[Told]
    position: str
    is_whole: bool


def check_id(text: str) -> str:
    """The id of an entry. Raises UsageError on what cannot be one."""
    if not _ID.fullmatch(text) or max(_place(text)) >= 2**64:
        raise UsageError(
            f"The event id is {text[:60]!r}.", hint="Give the id of the last signal that came, or none."
        )
    return text


class SignalStream:
    """The stream of one market and view."""

    def __init__(self, client: Redis, market_id: str, view_version: str) -> None:
        self._client = client
        self._identity = (market_id, view_version)

    async def close(self) -> None:
        await self._client.aclose()

    async def newest_id(self) -> str:
        """The place after everything that has come. Raises StoreUnavailable."""
        answer: Any = self._client.xrevrange(SIGNALS, count=1)
        newest: list[Any] = await ask("read the newest signal", answer)
        return newest[0][0].decode() if newest else BEGINNING

    async def after(self, position: str, limit: int) -> Page:
        """At most `limit` entries after a place. Raises StoreError on an entry that holds no signal."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.xrange(SIGNALS, min=f"({position}", count=limit)
            pipe.xinfo_stream(SIGNALS)
            entries, known = await ask("read the signals", pipe.execute(raise_on_error=False))
        if isinstance(known, ResponseError):  # There is no stream: nothing has come, or all of it is old.
            return Page((), BEGINNING, is_whole=position == BEGINNING)
        for answer in (entries, known):
            if isinstance(answer, Exception):
                with translated("read the signals"):
                    raise answer
        if _place(position) > _place(known["last-generated-id"].decode()):  # Of a server that is gone.
            return Page((), BEGINNING, is_whole=False)
        first = known["first-entry"]
        is_cut = known["entries-added"] > known["length"]
        is_whole = not (is_cut and first is not None and _place(position) < _place(first[0].decode()))
        told = [Told(id.decode(), signal) for id, values in entries if (signal := self._signal(id, values))]
        return Page(told, entries[-1][0].decode() if entries else position, is_whole)

    async def wait(self, position: str, wait_s: float) -> bool:
        """Whether something has come after a place, as soon as it has. Raises StoreUnavailable."""
        came = await ask(
            "wait for a signal",
            self._client.xread({SIGNALS: position}, count=1, block=max(1, round(wait_s * 1000))),
        )
        return bool(came)

    def _signal(self, id: bytes, values: dict[bytes, Any]) -> Signal | None:
        try:
            signal = Signal.from_json(values[b"signal"])
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreError(
                f"The entry {id.decode()} of {SIGNALS} holds no signal: {exc}.", hint="Delete the key."
            ) from exc
        return signal if (signal.market_id, signal.view_version) == self._identity else None


def _place(id: str) -> tuple[int, int]:
    time_ms, _, count = id.partition("-")
    return int(time_ms), int(count)
