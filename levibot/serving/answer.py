"""What a caller is told: the signal, how old it is, and whether it may still be used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from levibot.errors import NotReady
from levibot.serving.arms import CHAMPION, Arm
from levibot.stores.online import Freshness, Signal


@dataclass(frozen=True, slots=True)
class Answer:
    """A signal with its age on the market's clock.

    served_from: l1, cache, computed or memory. problem: why it is not newer, or not the canary's, else empty.
    arm: whose signal it is, None of a version that was asked for by its name.
    """

    signal: Signal
    feature_age_s: float
    freshness: Freshness
    served_from: str
    problem: str = ""
    arm: Arm | None = CHAMPION


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """How old an answer may be: `fresh_bars` to be called FRESH, `usable_bars` to be given at all."""

    interval: timedelta
    fresh_bars: float
    usable_bars: float

    def is_fresh(self, signal: Signal, now: datetime) -> bool:
        """Whether the signal is of the newest bars."""
        return signal.age_s(now) <= self.fresh_bars * self.interval.total_seconds()

    def answer(
        self,
        signal: Signal,
        now: datetime,
        served_from: str,
        problem: str = "",
        arm: Arm | None = CHAMPION,
    ) -> Answer:
        """The answer to give at `now`. Raises NotReady when the signal is too old to be used."""
        age_s = signal.age_s(now)
        limit_s = self.usable_bars * self.interval.total_seconds()
        if age_s > limit_s:
            raise NotReady(
                f"The newest signal of {signal.symbol} is {age_s:.0f} s old on the market's clock, "
                f"and nothing older than {limit_s:.0f} s is used.",
                hint="The feed has stopped or the recorded market has ended; see /readyz.",
            )
        freshness = Freshness.FRESH if self.is_fresh(signal, now) else Freshness.STALE
        return Answer(signal, age_s, freshness, served_from, problem, arm)
