"""An example of every answer, by the name of its schema."""

from __future__ import annotations

from typing import Any

TRACE = "2da87781-500f-49b7-9dd6-e5ad67891c8e"
VIEW = "bca8557871a5"
NOON = "2024-05-01T12:00:00Z"
STATE = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

WEIGHTS = {
    "as_of": "2024-04-30",
    "model_version": "v1.0.0",
    "basis": "prior",
    "weights": {"trend": 0.34, "strength": 0.33, "lightgbm": 0.33},
    "routed": {"trend": 0.34, "strength": 0.33, "lightgbm": 0.33},
    "route": "ensemble",
    "abstained": "No router was trained for this model.",
    "regime": {"bull": 0.7, "sideways": 0.2, "bear": 0.1},
}

SIGNAL = {
    "symbol": "BTCUSDT",
    "as_of": NOON,
    "probability_up": 0.5036,
    "expected_return": 0.0009,
    "target_position": 0.039,
    "model_version": "v1.0.0",
    "view_version": VIEW,
    "feature_age_s": 4820.3,
    "freshness": "FRESH",
    "source": "simulated",
    "served_from": "cache",
    "problem": "",
    "arm": "champion",
    "blend": {
        "opinions": {"trend": 0.12, "strength": 0.05, "lightgbm": 0.03},
        "weights": {"trend": 0.34, "strength": 0.33, "lightgbm": 0.33},
        "positions": {"trend": 0.031, "strength": 0.012, "lightgbm": 0.008, "ensemble": 0.039},
        "no_trade_band": 0.012,
        "route": "ensemble",
        "abstained": "No router was trained for this model.",
        "regime": {"bull": 0.7, "sideways": 0.2, "bear": 0.1},
        "weights_from": "redis",
        "weights_as_of": "2024-04-30",
        "weights_age_s": 43200.0,
        "absent": {},
    },
    "trace_id": TRACE,
}

ANSWERS: dict[str, dict[str, Any]] = {
    "PredictResponse": SIGNAL,
    "BatchResponse": {
        "answers": [
            {"symbol": "BTCUSDT", "signal": SIGNAL, "error": None},
            {
                "symbol": "ETHUSDT",
                "signal": None,
                "error": {
                    "code": "not_ready",
                    "message": "ETHUSDT has no signal yet.",
                    "hint": "See /readyz.",
                    "trace_id": TRACE,
                },
            },
        ],
        "n_failed": 1,
        "trace_id": TRACE,
    },
    "EnsembleResponse": {
        "held": WEIGHTS,
        "prior": {"trend": 0.333333, "strength": 0.333333, "lightgbm": 0.333333},
        "age_s": 43200.0,
        "weights_from": "redis",
        "history": [WEIGHTS],
        "accounts": {
            "ensemble": {"net_pnl": 0.012, "days": 31, "by_regime": {"bull": 0.015, "bear": -0.003}}
        },
        "market_time": NOON,
        "problem": "",
        "source": "simulated",
        "trace_id": TRACE,
    },
    "FeaturesResponse": {
        "symbol": "BTCUSDT",
        "status": "FRESH",
        "age_s": 12.5,
        "event_time": NOON,
        "market_time": "2024-05-01T12:00:12.500000Z",
        "view": "core",
        "view_version": VIEW,
        "features": {"return_1": {"value": 0.0012, "status": "FRESH", "age_s": 12.5}},
        "on_demand": {"order_size_24": {"value": None, "status": "MISSING", "age_s": None}},
        "problem": "",
        "source": "simulated",
        "trace_id": TRACE,
    },
    "EventsResponse": {
        "events": [
            {
                "event_id": "3b1f8a1c0d6e4f7a9b2c5d8e1f4a7b0c",
                "event_type": "signal",
                "symbol": "BTCUSDT",
                "ts": NOON,
                "trace_id": TRACE,
                "payload": {"target_position": 0.039},
            }
        ],
        "next_cursor": None,
        "trace_id": TRACE,
    },
    "SlowQueriesResponse": {
        "queries": [
            {
                "process": "event_log",
                "store": "clickhouse",
                "query": "append",
                "calls": 120,
                "failed": 0,
                "slow": 1,
                "total_s": 3.2,
                "longest_s": 0.4,
            }
        ],
        "missing": {"feature_history": "It does not answer."},
        "trace_id": TRACE,
    },
    "ModelsResponse": {
        "active": "v1.0.0",
        "state": STATE,
        "models": [
            {
                "version": "v1.0.0",
                "is_active": True,
                "published_at": NOON,
                "problem": "",
                "metadata": {"view_version": VIEW},
            }
        ],
        "history": [
            {"version": "v1.0.0", "replaced": None, "at": NOON, "reason": "trained", "decision": None}
        ],
        "as_of": NOON,
        "problem": "",
        "trace_id": TRACE,
    },
    "CanaryResponse": {
        "canary": {
            "version": "v1.1.0",
            "attempt": 1,
            "champion": "v1.0.0",
            "state": "rolled_back",
            "share": 0.0,
            "share_set": 0.1,
            "began_at": "2024-04-20T12:00:00Z",
            "ended_at": NOON,
            "ended_why": "net_pnl",
            "numbers": {"n": 264, "difference": -0.9, "low": -1.7, "high": -0.1, "limit": 0.0},
            "limits": {
                "error_share": 0.1,
                "latency_s": 1.0,
                "drawdown": 0.1,
                "worse_by_bps": 0.0,
                "deadline_s": 2.0,
            },
            "bars": {"answered": 262, "failed": 2},
            "error_share": 0.01,
            "latency_p95_s": 0.04,
            "net_pnl": {
                "n": 264,
                "champion": 0.012,
                "canary": -0.011,
                "difference": -0.9,
                "low": -1.7,
                "high": -0.1,
            },
            "verdict": "champion_better",
            "drawdown": 0.02,
            "priced_to": NOON,
            "brier": {
                "n": 10,
                "champion": 0.2481,
                "canary": 0.2495,
                "difference": 0.0014,
                "low": None,
                "high": None,
            },
        },
        "market_time": NOON,
        "problem": "",
        "source": "simulated",
        "trace_id": TRACE,
    },
    "PolicyResponse": {
        "symbol": "BTCUSDT",
        "as_of": NOON,
        "position": 1.0,
        "action": 2.0,
        "probabilities": {"short": 0.12, "flat": 0.34, "long": 0.54},
        "account_equity": 1010370.4,
        "feature_age_s": 4820.3,
        "freshness": "STALE",
        "policy_version": "v1.0.0",
        "view_version": VIEW,
        "source": "simulated",
        "trace_id": TRACE,
    },
    "ActivateResponse": {"version": "v1.0.0", "replaced": "v0.9.0", "is_changed": True, "trace_id": TRACE},
    "Liveness": {"status": "alive", "version": "0.1.0", "source": "simulated"},
    "Readiness": {
        "ready": True,
        "reasons": [],
        "model_version": "v1.0.0",
        "market_time": "2024-05-01T12:00:12.500000Z",
        "source": "simulated",
    },
    "HealthResponse": {
        "status": "degraded",
        "api_keys": "on",
        "dependencies": [
            {
                "name": "postgres",
                "is_critical": False,
                "state": "down",
                "latency_ms": None,
                "age_s": 0.4,
                "circuit": "opened",
                "fallback": "the bars that were read last, with their age, and the reason",
            }
        ],
        "version": "0.1.0",
        "source": "simulated",
    },
    "WebhookAnswer": {
        "event_id": "3b1f8a1c0d6e4f7a9b2c5d8e1f4a7b0c",
        "is_repeat": False,
        "trace_id": TRACE,
    },
}
