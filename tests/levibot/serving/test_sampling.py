"""What of the served vectors is kept."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.features.views import CORE
from levibot.serving.sampling import ServedSampler
from levibot.stores.online import FeatureReading, Freshness
from levibot.stores.packed import microseconds

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SERVED_AT = NOON + timedelta(seconds=1)
COLUMNS = {"ret_1": 0, "vol_24": 1}


def reading(symbol: str) -> FeatureReading:
    fresh = Freshness.FRESH, 1.0
    rows = np.array([[9.0, 9.0], [1 / 3, np.nan]])
    return FeatureReading(symbol, *fresh, rows, COLUMNS, microseconds(NOON), fresh, {})


def sampler(share: float) -> ServedSampler:
    return ServedSampler("market", CORE, share, random.Random(3))


def test_what_is_kept_is_the_newest_row_as_it_was_served() -> None:
    (kept,) = sampler(1.0).choose([reading("BTCUSDT")], SERVED_AT)
    assert (kept.symbol, kept.market_id, kept.view, kept.view_version) == (
        "BTCUSDT",
        "market",
        "core",
        CORE.version,
    )
    assert (kept.event_time, kept.served_at, kept.values) == (NOON, SERVED_AT, {"ret_1": 1 / 3})


@pytest.mark.parametrize(
    ("share", "fewest", "most"), [(0.0, 0, 0), (1e-9, 1, 1), (0.25, 150, 350), (1.0, 1000, 1000)]
)
def test_the_share_is_kept_and_one_at_least(share: float, fewest: int, most: int) -> None:
    kept = sampler(share).choose([reading(f"S{n}") for n in range(1000)], SERVED_AT)
    assert fewest <= len(kept) <= most


def test_every_symbol_is_kept_in_time() -> None:
    chooser = sampler(1e-9)
    symbols = [f"S{n}" for n in range(6)]
    kept = {v.symbol for _ in range(200) for v in chooser.choose([reading(s) for s in symbols], SERVED_AT)}
    assert kept == set(symbols)


def test_nothing_served_is_nothing_kept() -> None:
    assert sampler(1.0).choose([], SERVED_AT) == []
    assert sampler(1.0).choose([FeatureReading.missing("BTCUSDT")], SERVED_AT) == []
