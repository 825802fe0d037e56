"""What the queries of a process cost."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from levibot.stores import query_profile
from levibot.stores.query_profile import QueryProfile
from levibot.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def profile(metrics: Metrics) -> QueryProfile:
    return QueryProfile(slow_s=5.0, metrics=metrics)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_the_queries_that_took_most_time_come_first(profile: QueryProfile) -> None:
    for seconds in (1.0, 2.0, 3.0):
        profile.add("postgres", "often", seconds)
    profile.add("clickhouse", "once", 4.0)
    first, second = profile.top()
    assert (first.store, first.query, first.calls, first.total_s, first.longest_s) == (
        "postgres",
        "often",
        3,
        6.0,
        3.0,
    )
    assert second.query == "once"
    assert [cost.query for cost in profile.top(1)] == ["often"]


def test_only_a_query_above_the_limit_is_slow(profile: QueryProfile, metrics: Metrics) -> None:
    profile.add("postgres", "read", 5.0)
    assert sample(metrics, "levibot_slow_queries_total", store="postgres", query="read") is None
    profile.add("postgres", "read", 5.1)
    assert sample(metrics, "levibot_slow_queries_total", store="postgres", query="read") == 1
    assert profile.top()[0].slow == 1


def test_a_block_that_raises_is_a_failed_query(profile: QueryProfile, metrics: Metrics) -> None:
    with pytest.raises(OSError, match="gone"), profile.measure("postgres", "read"):
        raise OSError("gone")
    with profile.measure("postgres", "read"):
        pass
    (cost,) = profile.top()
    assert (cost.calls, cost.failed) == (2, 1)
    labels = {"store": "postgres", "query": "read"}
    assert sample(metrics, "levibot_queries_total", **labels, outcome="failed") == 1
    assert sample(metrics, "levibot_queries_total", **labels, outcome="ok") == 1


def test_the_number_of_names_is_bounded(profile: QueryProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_profile, "MAX_NAMES", 3)
    for n in range(10):
        profile.add("postgres", f"query {n}", 1.0)
    costs = {cost.query: cost.calls for cost in profile.top()}
    assert costs == {"query 0": 1, "query 1": 1, "query 2": 1, "other": 7}
