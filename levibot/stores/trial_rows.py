"""A trial as JSON: what its stores keep beside the daily returns, and what `trials` shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from levibot.errors import StoreError
from levibot.learning.evidence.trial import Trial, unpack_returns

_INSTANTS = ("start", "end", "started_at", "scored_at")
_AS_THEY_ARE = (
    *("trial_id", "run_id", "kind", "market_id", "data_hash", "view", "view_version", "seed"),
    *("net_sharpe", "gross_sharpe", "n_days", "budget", "status", "git_commit"),
)


def to_json(trial: Trial) -> dict[str, Any]:
    """JSON values; instants are ISO 8601 in UTC. Without the daily returns."""
    record: dict[str, Any] = {name: getattr(trial, name) for name in _AS_THEY_ARE}
    record |= {name: getattr(trial, name).astimezone(UTC).isoformat() for name in _INSTANTS}
    return record | {"parameters": dict(trial.parameters)}


def from_text(text: str, daily_returns: bytes | None) -> Trial:
    """The trial of `to_json`, in JSON. Raises StoreError on a text that is none."""
    try:
        record = json.loads(text)
        values: dict[str, Any] = {name: record[name] for name in (*_AS_THEY_ARE, "parameters")}
        values |= {name: datetime.fromisoformat(record[name]) for name in _INSTANTS}
    except (ValueError, KeyError, TypeError) as exc:
        raise StoreError(f"A record of a trial cannot be read: {exc!r}.") from exc
    return Trial(**values, daily_returns=unpack_returns(daily_returns))
