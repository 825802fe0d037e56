"""Watches for connections that are held too long, and names who took them."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import structlog

from levibot.telemetry.metrics import Metrics

# Enough to leave the store's own frames and reach the caller's.
STACK_DEPTH = 12
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Holder:
    """One use of a connection. stack: where it was taken, innermost last; source lines are read on demand."""

    database: str
    query: str
    held_s: float
    stack: traceback.StackSummary


@contextmanager
def watch(database: str, query: str, held_s: float, metrics: Metrics) -> Iterator[None]:
    """Count and log the block as a leak, once, while it is longer than `held_s` in coming to its end.

    The connection is not taken away: whoever holds it may be in the middle of a write.
    """
    stack = traceback.StackSummary.extract(
        traceback.walk_stack(_caller()), limit=STACK_DEPTH, lookup_lines=False
    )
    stack.reverse()
    holder = Holder(database, query, held_s, stack)
    timer = asyncio.get_running_loop().call_later(held_s, _report, holder, metrics)
    try:
        yield
    finally:
        timer.cancel()


def _caller() -> FrameType:
    """The first frame outside of this module and of contextlib."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "contextlib"):
        frame = frame.f_back
    assert frame is not None, "somebody called us"
    return frame


def _report(holder: Holder, metrics: Metrics) -> None:
    metrics.db_pool_leaks.labels(holder.database).inc()
    log.error(
        "a connection is held too long",
        database=holder.database,
        query=holder.query,
        held_s=holder.held_s,
        taken_at="".join(holder.stack.format()).rstrip(),
    )
