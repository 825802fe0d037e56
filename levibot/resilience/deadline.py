"""How long the work in hand may still take: said once by whoever waits for it, known to all that it calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ENDS_AT: ContextVar[float | None] = ContextVar("levibot_deadline", default=None)


class OutOfTime(Exception):
    """The deadline has passed. Never leaves the resilience kit: it is translated where a call gives up."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Everything that is called in this block, tasks begun in it included, has `seconds` and no longer.

    An outer deadline that ends earlier stays in force. This interrupts nothing by itself: retries and guards
    look at it, cut their waits, and give up rather than begin what cannot end in time.
    """
    ends_at = time.monotonic() + seconds
    outer = _ENDS_AT.get()
    token = _ENDS_AT.set(ends_at if outer is None else min(outer, ends_at))
    try:
        yield
    finally:
        _ENDS_AT.reset(token)


def remaining_s() -> float | None:
    """Seconds until the deadline in force, not positive once it has passed; None where there is none."""
    ends_at = _ENDS_AT.get()
    return None if ends_at is None else ends_at - time.monotonic()
