"""Ledgers of trials for tests: real journals, each in a folder of its own that goes with the process."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from levibot.clock import ManualClock
from levibot.learning.evidence.book import TrialBook
from levibot.learning.evidence.trial import Trial
from levibot.market.bars import FloatArray
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.metrics import sharpe

NOW = datetime(2024, 8, 9, 12, tzinfo=UTC)
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2021, 1, 1, tzinfo=UTC)
_FOLDER = TemporaryDirectory(prefix="levibot-trials-")
_NUMBERS = count()


def new_book(market_id: str = "test") -> TrialBook:
    """A ledger in which nothing is counted yet."""
    path = Path(_FOLDER.name) / f"{next(_NUMBERS)}.sqlite"
    return TrialBook(TrialJournal(path), market_id, ManualClock(NOW))


def trial(returns: FloatArray | None = None, **change: Any) -> Trial:
    """A trial of a search; `change` sets other fields, `n` a parameter that tells it from others."""
    values: dict[str, Any] = {
        "run_id": "study-1",
        "kind": "search",
        "market_id": "m",
        "data_hash": "d",
        "view": "core",
        "view_version": "w",
        "seed": 7,
        "parameters": {"n": change.pop("n", 0), "learning_rate": 0.1 + 0.2, "name": "naïve"},
        "start": START,
        "end": END,
        "started_at": NOW,
        "scored_at": NOW,
    }
    if returns is not None:
        ratio = sharpe(returns)
        net = None if np.isnan(ratio) else ratio
        values |= {"daily_returns": returns, "n_days": len(returns), "net_sharpe": net, "gross_sharpe": net}
    return Trial(**{**values, **change})


def same(one: Trial, other: Trial) -> bool:
    """Whether two trials agree in every field, daily returns to the bit of what is kept of them."""
    names = [name for name in Trial.__slots__ if name != "daily_returns"]
    returns = [
        None if t.daily_returns is None else t.daily_returns.astype(np.float32).tolist() for t in (one, other)
    ]
    return returns[0] == returns[1] and all(getattr(one, name) == getattr(other, name) for name in names)
