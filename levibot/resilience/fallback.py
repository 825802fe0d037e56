"""Places that can answer the same question, tried in order. Every answer names its place and its age."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from levibot.clock import Clock
from levibot.errors import DataError, LeviBotError, NotReady, UsageError

T = TypeVar("T")


def is_wrong_question(exc: BaseException) -> bool:
    """Whether an error speaks of what was asked, so that no other place has a better answer to it."""
    # Bad data is its place's fault, and another place may have good data.
    return isinstance(exc, UsageError) and not isinstance(exc, DataError)


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A value, and when it was true. as_of: aware UTC."""

    value: T
    as_of: datetime


@dataclass(frozen=True, slots=True)
class Link(Generic[T]):
    """One place of a chain. load: None where the place has no value; raises LeviBotError where it fails."""

    name: str
    load: Callable[[], Awaitable[Found[T] | None]]


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """A value with the link that gave it. age_s: since `as_of`, never negative.

    problems: why each link before it gave nothing, empty when the first one answered.
    """

    value: T
    link: str
    as_of: datetime
    age_s: float
    problems: tuple[str, ...] = ()

    @property
    def is_fallback(self) -> bool:
        """Whether the first link did not answer."""
        return bool(self.problems)


class Fallback(Generic[T]):
    """The links in their order: `Fallback([database, cache, stub], clock)`. A value: it holds no state."""

    def __init__(self, links: Sequence[Link[T]], clock: Clock) -> None:
        self._links = tuple(links)
        self._clock = clock

    async def get(self) -> Answered[T]:
        """The answer of the first link that has one.

        Raises NotReady, naming what each link said, when none has; a wrong question (UsageError) as it is.
        """
        problems: list[str] = []
        for link in self._links:
            try:
                found = await link.load()
            except LeviBotError as exc:
                if is_wrong_question(exc):
                    raise
                problems.append(f"{link.name}: {exc.message}")
                continue
            if found is None:
                problems.append(f"{link.name}: nothing is there.")
                continue
            if found.as_of.tzinfo is None:
                problems.append(f"{link.name}: its answer is as of {found.as_of}, without a time zone.")
                continue
            age_s = max(0.0, (self._clock.now() - found.as_of).total_seconds())
            return Answered(found.value, link.name, found.as_of, age_s, tuple(problems))
        raise NotReady("No link of the chain has an answer. " + " ".join(problems))
