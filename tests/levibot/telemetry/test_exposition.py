"""The metrics of several processes on one page."""

from __future__ import annotations

import pickle

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from levibot.telemetry.exposition import exposition, families
from levibot.telemetry.metrics import Metrics


def registry_with(slow: int) -> CollectorRegistry:
    metrics = Metrics(CollectorRegistry())
    metrics.slow_queries.labels("postgres", "read").inc(slow)
    metrics.http_request_seconds.labels("/livez").observe(0.2)
    return metrics.registry


def read(page: bytes) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of each name; a family that stands twice on the page is an error."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    names = []
    for family in text_string_to_metric_families(page.decode()):
        names.append(family.name)
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    assert len(names) == len(set(names))
    return found


def test_each_process_has_its_samples_in_one_family() -> None:
    others = {"feed": families(registry_with(2)), "router": families(registry_with(3))}
    samples = read(exposition(others, registry_with(1)))["levibot_slow_queries_total"]
    query = {"store": "postgres", "query": "read"}
    assert samples == [
        (query, 1.0),
        ({"process": "feed", **query}, 2.0),
        ({"process": "router", **query}, 3.0),
    ]


def test_the_page_of_one_process_is_what_it_was() -> None:
    registry = registry_with(1)
    assert read(exposition({}, registry)) == read(exposition({"none": []}, registry))
    assert read(exposition({}, registry))["levibot_build_info"][0][1] == 1.0


def test_showing_the_page_adds_nothing_to_the_registry() -> None:
    registry = registry_with(1)
    others = {"feed": families(registry_with(2))}
    assert exposition(others, registry) == exposition(others, registry)


def test_a_metric_that_only_another_process_has_is_shown() -> None:
    page = read(exposition({"feed": families(registry_with(2))}, CollectorRegistry()))
    assert page["levibot_slow_queries_total"] == [
        ({"process": "feed", "store": "postgres", "query": "read"}, 2.0)
    ]
    buckets = {labels["le"]: value for labels, value in page["levibot_http_request_seconds_bucket"]}
    assert (buckets["0.1"], buckets["0.25"]) == (0.0, 1.0)


def test_families_travel_and_are_ours_alone() -> None:
    found = families(registry_with(2))
    assert pickle.loads(pickle.dumps(found)) == found
    assert {family.name.split("_")[0] for family in found} == {"levibot"}
