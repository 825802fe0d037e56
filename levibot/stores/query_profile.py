"""What this process's queries cost, by name: kept by the client, since not every engine keeps such a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import structlog

from levibot.telemetry.metrics import DEFAULT, Metrics

# Names come from code and are few; a bound all the same, so that a mistake cannot fill the memory.
MAX_NAMES = 500
SLOW_S = 5.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class QueryCost:
    """All the calls of one query since the process began. slow: those that took longer than the limit."""

    store: str
    query: str
    calls: int
    failed: int
    slow: int
    total_s: float
    longest_s: float


class QueryProfile:
    """Adds up the queries of one process, from any of its threads.

    slow_s: a query that takes longer is logged, counted, and so alerted on.
    """

    def __init__(self, *, slow_s: float = SLOW_S, metrics: Metrics = DEFAULT) -> None:
        self._slow_s = slow_s
        self._metrics = metrics
        self._costs: dict[tuple[str, str], QueryCost] = {}
        self._adding = Lock()

    @contextmanager
    def measure(self, store: str, query: str) -> Iterator[None]:
        """Count the block as one call of the query: a name, never its text or its values."""
        started = time.perf_counter()
        has_failed = True
        try:
            yield
            has_failed = False
        finally:
            self.add(store, query, time.perf_counter() - started, has_failed=has_failed)

    def add(self, store: str, query: str, seconds: float, *, has_failed: bool = False) -> None:
        """Count one call that took so long."""
        key = (store, query)
        is_slow = seconds > self._slow_s
        with self._adding:
            if key not in self._costs and len(self._costs) >= MAX_NAMES:
                key = (store, "other")
            old = self._costs.get(key, QueryCost(*key, 0, 0, 0, 0.0, 0.0))
            self._costs[key] = QueryCost(
                *key,
                old.calls + 1,
                old.failed + has_failed,
                old.slow + is_slow,
                old.total_s + seconds,
                max(old.longest_s, seconds),
            )
        self._metrics.queries.labels(*key, "failed" if has_failed else "ok").inc()
        self._metrics.query_seconds.labels(*key).inc(seconds)
        if is_slow:
            self._metrics.slow_queries.labels(*key).inc()
            log.warning("a query was slow", store=store, query=query, seconds=round(seconds, 3))

    def top(self, n: int = 10) -> list[QueryCost]:
        """The queries that took most time altogether, most first."""
        with self._adding:
            costs = list(self._costs.values())
        return sorted(costs, key=lambda cost: cost.total_s, reverse=True)[:n]


PROFILE = QueryProfile()
