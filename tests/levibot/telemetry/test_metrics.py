"""The metrics by name."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from levibot import __version__
from levibot.telemetry.metrics import Metrics

# What dashboards and alerts rely on: name, type, labels.
OUTSIDE = {
    ("levibot_http_requests", "counter", ("route", "method", "status")),
    ("levibot_http_request_seconds", "histogram", ("route",)),
    ("levibot_retries", "counter", ("operation", "outcome")),
    ("levibot_circuit_state", "gauge", ("name",)),
    ("levibot_dead_letters", "counter", ("queue",)),
    ("levibot_cache_hits", "counter", ("cache", "tier")),
    ("levibot_cache_misses", "counter", ("cache", "tier")),
    ("levibot_rate_limited", "counter", ("limiter",)),
    ("levibot_dependency_up", "gauge", ("dependency",)),
    ("levibot_webhooks", "counter", ("outcome",)),
    ("levibot_db_pool_connections", "gauge", ("database", "state")),
    ("levibot_db_pool_leaks", "counter", ("database",)),
    ("levibot_query_seconds", "counter", ("store", "query")),
    ("levibot_queries", "counter", ("store", "query", "outcome")),
    ("levibot_slow_queries", "counter", ("store", "query")),
    ("levibot_events_spooled", "gauge", ()),
    ("levibot_events_refused", "counter", ()),
    ("levibot_rows_rejected", "counter", ("table", "reason")),
    ("levibot_feature_staleness_limit_seconds", "gauge", ()),
    ("levibot_feature_staleness_seconds", "gauge", ("symbol",)),
    ("levibot_feature_parity_checked", "counter", ()),
    ("levibot_feature_parity_differences", "counter", ()),
    ("levibot_feature_psi", "gauge", ("feature",)),
    ("levibot_feature_drift", "gauge", ("feature",)),
    ("levibot_feature_importance", "gauge", ("feature",)),
    ("levibot_ensemble_weight", "gauge", ("model", "way")),
    ("levibot_ensemble_weight_age_seconds", "gauge", ()),
    ("levibot_canary_share", "gauge", ()),
    ("levibot_canary_asked", "counter", ("outcome",)),
    ("levibot_canary_net_pnl", "gauge", ("arm",)),
    ("levibot_canary_rolled_back", "counter", ("reason",)),
    ("levibot_member_absent", "counter", ("member", "reason")),
    ("levibot_shadow_pnl", "gauge", ("model", "regime")),
    ("levibot_shadow_model_asked", "counter", ("version", "outcome")),
    ("levibot_drift_shadow_loss", "gauge", ("model_version",)),
    ("levibot_drift_checked_timestamp_seconds", "gauge", ()),
    ("levibot_outside_polls", "counter", ("source", "outcome")),
    ("levibot_observations", "counter", ("source",)),
    ("levibot_outside_silence_seconds", "gauge", ("source",)),
    ("levibot_outside_silence_limit_seconds", "gauge", ("source",)),
    ("levibot_outside_spent_usd", "gauge", ("source",)),
    ("levibot_build_info", "gauge", ("version",)),
}


def test_every_metric_has_the_name_type_and_labels_that_the_outside_relies_on() -> None:
    metrics = Metrics(CollectorRegistry())
    found = set()
    for metric in vars(metrics).values():
        if not isinstance(metric, CollectorRegistry):
            (family,) = metric.describe()
            found.add((family.name, family.type, metric._labelnames))
    assert found == OUTSIDE


def test_the_build_says_its_version() -> None:
    metrics = Metrics(CollectorRegistry())
    assert metrics.registry.get_sample_value("levibot_build_info", {"version": __version__}) == 1


def test_two_registries_do_not_share_their_counts() -> None:
    one, other = Metrics(CollectorRegistry()), Metrics(CollectorRegistry())
    one.http_requests.labels("/ai/predict", "POST", "200").inc()
    assert b'levibot_http_requests_total{method="POST",route="/ai/predict",status="200"} 1.0' in (
        generate_latest(one.registry)
    )
    assert b"/ai/predict" not in generate_latest(other.registry)
