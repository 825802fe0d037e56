"""The period that is kept for the last judgement: nobody looks at it without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from levibot.clock import Clock
from levibot.learning.evidence.trial import Trial
from levibot.stores.trial_journal import TrialJournal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HoldOut:
    """A period with a name, [start, end) aware UTC."""

    name: str
    start: datetime
    end: datetime

    def meets(self, start: datetime, end: datetime) -> bool:
        return start < self.end and end > self.start


# What the project's goal is judged on. Whoever searches, does it on what came before.
FINAL = HoldOut("final", datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))


def look(
    hold_out: HoldOut,
    read: Callable[[], T],
    *,
    journal: TrialJournal,
    market_id: str,
    purpose: str,
    clock: Clock,
    git_commit: str | None = None,
) -> T:
    """What `read` gives, which holds data of the hold-out; the use is written down before it is called.

    Every look counts, also the same again. Raises StoreError when it cannot be written down, and what `read`
    raises.
    """
    now = clock.now()
    use = Trial(
        run_id=f"look-{uuid4().hex}",
        kind="hold-out",
        market_id=market_id,
        data_hash="",
        view="",
        view_version="",
        seed=0,
        parameters={"hold_out": hold_out.name, "purpose": purpose},
        start=hold_out.start,
        end=hold_out.end,
        started_at=now,
        scored_at=now,
        git_commit=git_commit,
    )
    journal.add([use])
    return read()
