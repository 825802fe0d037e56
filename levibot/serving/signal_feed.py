"""Tells any number of followers of new signals, each at its own pace."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from levibot.errors import NotReady, RateLimited, StoreError, StoreUnavailable
from levibot.resilience.guard import Guard
from levibot.stores.signal_stream import BEGINNING, Page, SignalStream, Told

log = structlog.get_logger()
PAGE = 100
# How long Redis is left alone where it does not answer.
AWAY_S = 0.5
MOST, MOST_A_KEY = 64, 8


@dataclass(frozen=True, slots=True)
class Gap:
    """Signals before the next one may have been lost to this follower."""

    reason: str


class SignalFeed:
    """Follows the stream of signals for one replica.

    A follower holds a place in the stream and nothing else: one that reads slowly costs no memory and delays
    nobody, and is told when the stream went on without it. One task waits for news, for all of them.
    """

    def __init__(self, stream: SignalStream, *, timeout_s: float = 2.0) -> None:
        self._stream = stream
        self._wait_s = timeout_s / 2.0
        # One attempt: who follows asks again by itself.
        self._redis = Guard(
            "signals", timeout_s=timeout_s, attempts=1, reset_s=1.0, transient=(StoreUnavailable,)
        )
        self._followers: Counter[str] = Counter()
        self._news = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @contextmanager
    def place(self, key: str) -> Iterator[None]:
        """A place among the followers, for as long as it is held.

        Raises RateLimited where the key has all that one may have, NotReady where all are taken.
        """
        if self._followers[key] >= MOST_A_KEY:
            raise RateLimited(
                f"The key follows {MOST_A_KEY} streams here already, the most that one may.",
                hint="Close one, and try again.",
                retry_after_s=1.0,
            )
        if self._followers.total() >= MOST:
            raise NotReady(f"All {MOST} streams of this replica are taken.", hint="Try again soon.")
        self._followers[key] += 1
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        try:
            yield
        finally:
            self._followers[key] -= 1
            self._followers += Counter()  # Without those that have none left.
            if not self._followers and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    async def follow(self, after: str | None, lasts_s: float) -> AsyncIterator[Told | Gap]:
        """The signals after a place, None: those that come from now on. It ends after `lasts_s`.

        While Redis is away nothing comes, and nothing is lost by that which it still holds afterwards.
        """
        position, is_away = after, False
        ends_at = time.monotonic() + lasts_s
        while (left_s := ends_at - time.monotonic()) > 0.0:
            news = self._news
            try:
                if position is None:
                    position = await self._redis.call(self._stream.newest_id)
                page: Page = await self._redis.call(self._stream.after, position, PAGE)
            except StoreError as exc:
                if not is_away:
                    log.warning("signals cannot be read", reason=str(exc))
                is_away = True
                await asyncio.sleep(AWAY_S)
                continue
            is_away = False
            if not page.is_whole:
                yield Gap(f"Signals after {position} are not kept any more.")
            for told in page.told:
                yield told
            if page.position == position:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), left_s)
            position = page.position

    async def _watch(self) -> None:
        position = BEGINNING
        while True:
            with suppress(StoreError):
                position = await self._redis.call(self._stream.newest_id)
                self._tell()
                while not await self._redis.call(self._stream.wait, position, self._wait_s):
                    pass
                self._tell()
                continue
            await asyncio.sleep(AWAY_S)
            self._tell()

    def _tell(self) -> None:
        told, self._news = self._news, asyncio.Event()
        told.set()
