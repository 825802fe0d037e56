"""Every metric that LeviBot emits, by name, in one place.

A process uses `DEFAULT`, on the registry that prometheus_client serves, or its objects by name; a test builds
its own `Metrics`.
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from levibot import __version__

# From a cache read on the loopback to a walk through the whole graph.
REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metric objects of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.http_requests = Counter(
            "levibot_http_requests_total",
            "HTTP requests answered.",
            ("route", "method", "status"),
            registry=registry,
        )
        self.http_request_seconds = Histogram(
            "levibot_http_request_seconds",
            "Time from a request to its answer.",
            ("route",),
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self.retries = Counter(
            "levibot_retries_total",
            "Attempts after the first, by outcome: succeeded or failed.",
            ("operation", "outcome"),
            registry=registry,
        )
        self.circuit_state = Gauge(
            "levibot_circuit_state",
            "0 closed, 1 half-open, 2 open.",
            ("name",),
            registry=registry,
        )
        self.dead_letters = Counter(
            "levibot_dead_letters_total",
            "Messages that no attempt could deliver.",
            ("queue",),
            registry=registry,
        )
        self.cache_hits = Counter(
            "levibot_cache_hits_total",
            "Values found, by tier: l1 in process, l2 in Redis.",
            ("cache", "tier"),
            registry=registry,
        )
        self.cache_misses = Counter(
            "levibot_cache_misses_total",
            "Values that a tier did not have.",
            ("cache", "tier"),
            registry=registry,
        )
        self.rate_limited = Counter(
            "levibot_rate_limited_total",
            "Calls refused by a rate limiter.",
            ("limiter",),
            registry=registry,
        )
        self.dependency_up = Gauge(
            "levibot_dependency_up",
            "1 where a dependency of this replica answered when it was last looked at, else 0.",
            ("dependency",),
            registry=registry,
        )
        self.webhooks = Counter(
            "levibot_webhooks_total",
            "Webhooks, by outcome: accepted, repeated, refused; stored and failed after the queue.",
            ("outcome",),
            registry=registry,
        )
        self.db_pool_connections = Gauge(
            "levibot_db_pool_connections",
            "PostgreSQL connections of this process, by state: idle or used.",
            ("database", "state"),
            registry=registry,
        )
        self.db_pool_leaks = Counter(
            "levibot_db_pool_leaks_total",
            "PostgreSQL connections held longer than their limit.",
            ("database",),
            registry=registry,
        )
        self.query_seconds = Counter(
            "levibot_query_seconds_total",
            "Time spent in the queries of a store, by the query's name.",
            ("store", "query"),
            registry=registry,
        )
        self.queries = Counter(
            "levibot_queries_total",
            "Queries of a store, by the query's name and outcome: ok or failed.",
            ("store", "query", "outcome"),
            registry=registry,
        )
        self.slow_queries = Counter(
            "levibot_slow_queries_total",
            "Queries that took longer than their limit, by the query's name.",
            ("store", "query"),
            registry=registry,
        )
        self.events_spooled = Gauge(
            "levibot_events_spooled",
            "Events that wait on disk for ClickHouse.",
            registry=registry,
        )
        self.events_refused = Counter(
            "levibot_events_refused_total",
            "Events that were not taken because the spool was full.",
            registry=registry,
        )
        self.rows_rejected = Counter(
            "levibot_rows_rejected_total",
            "Rows that went to quarantine instead of their table.",
            ("table", "reason"),
            registry=registry,
        )
        self.feature_staleness_seconds = Gauge(
            "levibot_feature_staleness_seconds",
            "Age of the newest features, on the market's clock.",
            ("symbol",),
            registry=registry,
        )
        self.feature_staleness_limit_seconds = Gauge(
            "levibot_feature_staleness_limit_seconds",
            "Age on the market's clock that features do not reach while all is well.",
            registry=registry,
        )
        self.canary_share = Gauge(
            "levibot_canary_share",
            "Share of the callers that a canary answers; 0 without one.",
            registry=registry,
        )
        self.canary_asked = Counter(
            "levibot_canary_asked_total",
            "Bars that a canary was asked of, by outcome: answered, incomplete or failed.",
            ("outcome",),
            registry=registry,
        )
        self.canary_net_pnl = Gauge(
            "levibot_canary_net_pnl",
            "What each arm has earned in shadow since the canary began, net of costs, of its first equity.",
            ("arm",),
            registry=registry,
        )
        self.canary_rolled_back = Counter(
            "levibot_canary_rolled_back_total",
            "Canaries that were taken back, by the limit that was broken.",
            ("reason",),
            registry=registry,
        )
        self.feature_psi = Gauge(
            "levibot_feature_psi",
            "Population stability index of a feature's last day against what the active model learned on.",
            ("feature",),
            registry=registry,
        )
        self.feature_drift = Gauge(
            "levibot_feature_drift",
            "How far a feature's worst measure of drift is beyond its limit, as a multiple of it; 0 within.",
            ("feature",),
            registry=registry,
        )
        self.drift_shadow_loss = Gauge(
            "levibot_drift_shadow_loss",
            "Loss of the active model over the day on which drift was measured, in log return net of costs.",
            ("model_version",),
            registry=registry,
        )
        self.drift_checked_at = Gauge(
            "levibot_drift_checked_timestamp_seconds",
            "When drift was last measured, on the machine's clock.",
            registry=registry,
        )
        self.feature_importance = Gauge(
            "levibot_feature_importance",
            "Share of a feature in what moved the active model's predictions in the last week.",
            ("feature",),
            registry=registry,
        )
        self.ensemble_weight = Gauge(
            "levibot_ensemble_weight",
            "Weight of a member, by way of weighing: ensemble or router.",
            ("model", "way"),
            registry=registry,
        )
        self.ensemble_weight_age_seconds = Gauge(
            "levibot_ensemble_weight_age_seconds",
            "Market time since the last day that the weights have learned from was over; none before.",
            registry=registry,
        )
        self.member_absent = Counter(
            "levibot_member_absent_total",
            "Cross-sections that a member did not answer, by reason, as in levibot/serving/member_panel.py.",
            ("member", "reason"),
            registry=registry,
        )
        self.shadow_pnl = Gauge(
            "levibot_shadow_pnl",
            "Net profit of a shadow account as a share of what it began with, by the regime of each day.",
            ("model", "regime"),
            registry=registry,
        )
        self.shadow_model_asked = Counter(
            "levibot_shadow_model_asked_total",
            "Cross-sections for a shadow model, by outcome: answered, refused, timed_out, died or dropped.",
            ("version", "outcome"),
            registry=registry,
        )
        self.feature_parity_checked = Counter(
            "levibot_feature_parity_checked_total",
            "Served feature values that were rebuilt from history.",
            registry=registry,
        )
        self.feature_parity_differences = Counter(
            "levibot_feature_parity_differences_total",
            "Served feature values that history gives differently.",
            registry=registry,
        )
        self.outside_polls = Counter(
            "levibot_outside_polls_total",
            "Looks at a source outside the market's bars, by outcome: ok or failed.",
            ("source", "outcome"),
            registry=registry,
        )
        self.observations = Counter(
            "levibot_observations_total",
            "Observations from outside that were new.",
            ("source",),
            registry=registry,
        )
        self.outside_silence_seconds = Gauge(
            "levibot_outside_silence_seconds",
            "Since a source outside last answered; of one that is not disabled.",
            ("source",),
            registry=registry,
        )
        self.outside_silence_limit_seconds = Gauge(
            "levibot_outside_silence_limit_seconds",
            "Silence that a source does not reach while all is well.",
            ("source",),
            registry=registry,
        )
        self.outside_spent_usd = Gauge(
            "levibot_outside_spent_usd",
            "What a paid source has cost since midnight UTC, with what is reserved.",
            ("source",),
            registry=registry,
        )
        self.build_info = Gauge(
            "levibot_build_info",
            "Always 1; the version is in the label.",
            ("version",),
            registry=registry,
        )
        self.build_info.labels(version=__version__).set(1)


DEFAULT = Metrics(REGISTRY)

HTTP_REQUESTS = DEFAULT.http_requests
HTTP_SECONDS = DEFAULT.http_request_seconds
FEATURE_STALENESS = DEFAULT.feature_staleness_seconds
FEATURE_STALENESS_LIMIT = DEFAULT.feature_staleness_limit_seconds
BUILD_INFO = DEFAULT.build_info
