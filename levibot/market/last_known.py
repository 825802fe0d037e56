"""What a source last answered, for the time in which it does not: the last link of a fallback chain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from levibot.clock import Clock
from levibot.errors import NotReady
from levibot.resilience.fallback import Answered, Fallback, Found, Link

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LastKnown(Generic[K, V]):
    """Asks a source, and answers from memory while it fails. State: the newest answer to each question.

    longest_age: an older answer is refused. capacity: the questions remembered; the one that was asked
    longest ago gives way.
    """

    def __init__(self, clock: Clock, longest_age: timedelta, *, capacity: int = 1000) -> None:
        self._clock = clock
        self._longest_age = longest_age
        self._capacity = capacity
        self._answers: OrderedDict[K, Found[V]] = OrderedDict()

    async def get(self, question: K, ask: Callable[[], Awaitable[Found[V]]]) -> Answered[V]:
        """What `ask` says, by the link `live`; or what it last said, by the link `last known`.

        Raises NotReady, with the problem of each link, when neither has an answer.
        """

        async def live() -> Found[V]:
            found = await ask()
            self._remember(question, found)
            return found

        async def last_known() -> Found[V] | None:
            found = self._answers.get(question)
            if found is not None and (age := self._clock.now() - found.as_of) > self._longest_age:
                raise NotReady(
                    f"the last answer is {age.total_seconds():.0f} s old, "
                    f"more than {self._longest_age.total_seconds():.0f} s."
                )
            return found

        return await Fallback([Link("live", live), Link("last known", last_known)], self._clock).get()

    def _remember(self, question: K, found: Found[V]) -> None:
        self._answers[question] = found
        self._answers.move_to_end(question)
        while len(self._answers) > self._capacity:
            self._answers.popitem(last=False)
