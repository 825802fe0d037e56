"""A run that failed, was slow, or did not happen is not called good."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.verdict import Goal, Latencies, Seen, read

GOOD = Seen(1000, 0, 10.0, Latencies({5.0: 990, 90.0: 10}), {}, None)
GOAL = Goal(100.0)


def line(method: str, name: str, n: int, times: dict[str, int], failures: int = 0) -> dict[str, Any]:
    """A line of what Locust writes."""
    at = {"start_time": 100.0, "last_request_timestamp": 110.0}
    return {
        **at,
        "method": method,
        "name": name,
        "num_requests": n,
        "num_failures": failures,
        "response_times": times,
    }


def test_a_good_run_has_no_problem() -> None:
    assert GOAL.unmet(GOOD) == []


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (replace(GOOD, requests=900), "90.0 requests/s"),
        (replace(GOOD, requests=0, latencies=Latencies({})), "p95 is nan ms"),
        (replace(GOOD, lasted_s=0.0), "0.0 requests/s"),
        (replace(GOOD, failed=1), "1 of 1000 requests failed"),
        (replace(GOOD, latencies=Latencies({5.0: 940, 100.0: 60})), "p95 is 100 ms"),
    ],
)
def test_a_missed_goal_is_told(seen: Seen, told: str) -> None:
    assert any(told in problem for problem in GOAL.unmet(seen))


@pytest.mark.parametrize(("share", "n_problems"), [(None, 1), (0.94, 1), (0.95, 0)])
def test_a_cold_run_that_found_the_cache_warm_is_told(share: float | None, n_problems: int) -> None:
    assert len(replace(GOAL, missed_share=0.95).unmet(replace(GOOD, missed_share=share))) == n_problems


@given(st.lists(st.integers(0, 50), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_time_that_this_share_kept(times_ms: list[int], share: float) -> None:
    counts = {float(t): times_ms.count(t) for t in times_ms}
    expected = np.quantile(np.array(times_ms, float), share, method="inverted_cdf")
    assert Latencies(counts).percentile_ms(share) == expected


def test_of_no_request_there_is_no_percentile() -> None:
    assert math.isnan(Latencies({}).percentile_ms(0.95))


def test_what_counts_the_misses_is_no_request(tmp_path: Path) -> None:
    statistics = tmp_path / "statistics.json"
    lines = [
        line("POST", "/ai/predict", 10, {"4": 7, "6": 3}, failures=2),
        line("GET", "/events", 5, {"30": 5}),
        line("FROM", "computed", 9, {"0": 9}),
        line("FROM", "cache", 1, {"0": 1}),
    ]
    statistics.write_text(json.dumps(lines))
    seen = read(statistics)

    assert (seen.requests, seen.failed, seen.rate_per_s, seen.missed_share) == (15, 2, 1.5, 0.9)
    assert seen.latencies.counts == {4.0: 7, 6.0: 3, 30.0: 5}
    assert set(seen.by_route) == {"POST /ai/predict", "GET /events"}
    statistics.write_text("[]")
    with pytest.raises(ValueError, match="no statistics"):
        read(statistics)
