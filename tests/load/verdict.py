"""What a load run showed, and whether that is good enough."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# How Locust's lines that count where a prediction came from are told from requests (locustfile.py).
SERVED_FROM = "FROM"
MISS = "computed"


@dataclass(frozen=True, slots=True)
class Latencies:
    """Times of the requests of one route, or of all: milliseconds, rounded to whole ones by Locust."""

    counts: Mapping[float, int]

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def percentile_ms(self, share: float) -> float:
        """The least time that at least this share of the requests kept; NaN of none."""
        wanted, seen = math.ceil(share * self.n), 0
        for time_ms in sorted(self.counts):
            seen += self.counts[time_ms]
            if seen >= wanted and seen:
                return time_ms
        return math.nan


@dataclass(frozen=True, slots=True)
class Seen:
    """One run. requests: answered or failed ones. failed: no 200, or a 200 that says something wrong.

    missed_share: of the predictions, how many were computed and not read from the cache; None where nobody
    counted. by_route: the route with its method.
    """

    requests: int
    failed: int
    lasted_s: float
    latencies: Latencies
    by_route: Mapping[str, Latencies]
    missed_share: float | None

    @property
    def rate_per_s(self) -> float:
        return self.requests / self.lasted_s if self.lasted_s > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What a run must show. A run that did not send its requests has shown nothing."""

    rate_per_s: float
    p95_ms: float = 100.0
    failed: int = 0
    kept_rate_share: float = 0.98
    missed_share: float | None = None

    def unmet(self, seen: Seen) -> list[str]:
        """One sentence for each goal that the run does not meet."""
        p95_ms = seen.latencies.percentile_ms(0.95)
        problems = []
        if not seen.rate_per_s >= self.kept_rate_share * self.rate_per_s:
            problems.append(f"{seen.rate_per_s:.1f} requests/s were sent, of {self.rate_per_s:g} wanted.")
        if not p95_ms < self.p95_ms:
            problems.append(f"p95 is {p95_ms:g} ms, and has to be under {self.p95_ms:g} ms.")
        if seen.failed > self.failed:
            problems.append(f"{seen.failed} of {seen.requests} requests failed; at most {self.failed} may.")
        if self.missed_share is not None and not (seen.missed_share or 0.0) >= self.missed_share:
            share = "none" if seen.missed_share is None else f"{seen.missed_share:.1%}"
            problems.append(
                f"{share} of the predictions missed the cache, and {self.missed_share:.0%} have to."
            )
        return problems


def read(statistics: Path) -> Seen:
    """What Locust wrote with `--json-file`. Raises ValueError where it is nothing of the kind."""
    lines = json.loads(statistics.read_text())
    if not isinstance(lines, list) or not lines:
        raise ValueError(f"{statistics} holds no statistics of Locust.")
    routes = [line for line in lines if line["method"] != SERVED_FROM]
    came_from = {line["name"]: line["num_requests"] for line in lines if line["method"] == SERVED_FROM}
    return Seen(
        requests=sum(line["num_requests"] for line in routes),
        failed=sum(line["num_failures"] for line in routes),
        lasted_s=max(line["last_request_timestamp"] for line in routes)
        - min(line["start_time"] for line in routes),
        latencies=_of(routes),
        by_route={f"{line['method']} {line['name']}": _of([line]) for line in routes},
        missed_share=came_from.get(MISS, 0) / sum(came_from.values()) if came_from else None,
    )


def _of(lines: Sequence[Mapping[str, Any]]) -> Latencies:
    counts: Counter[float] = Counter()
    for line in lines:
        counts.update({float(time_ms): n for time_ms, n in line["response_times"].items()})
    return Latencies(counts)
