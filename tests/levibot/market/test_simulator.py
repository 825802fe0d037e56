"""A simulated bar depends on seed, edge, interval and symbol, and on nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levibot.errors import UsageError
from levibot.market import simulator
from levibot.market.bars import FIELDS, Bars
from levibot.market.price_process import CHUNK_BARS, MARKET_START
from levibot.market.simulator import MARKET_HORIZON, SimulatedSource

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")
WHOLE = SimulatedSource(SYMBOLS, HOUR, 9, 0.03)


def same(one: Bars, other: Bars) -> bool:
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in ("ts", *FIELDS))


def digest(bars: Bars) -> str:
    return hashlib.sha256(b"".join(getattr(bars, f).tobytes() for f in ("ts", *FIELDS))).hexdigest()


def at(bar: int) -> datetime:
    return MARKET_START + bar * HOUR


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from(SYMBOLS), st.integers(0, 3 * CHUNK_BARS), st.integers(0, 2 * CHUNK_BARS)),
        min_size=1,
        max_size=4,
    )
)
def test_the_order_and_the_ranges_of_calls_change_nothing(calls: list[tuple[str, int, int]]) -> None:
    fresh = SimulatedSource(SYMBOLS, HOUR, 9, 0.03)
    for symbol, first, length in calls:
        cut = WHOLE.bars(symbol, at(0), at(6 * CHUNK_BARS)).between(at(first), at(first + length))
        assert same(fresh.bars(symbol, at(first), at(first + length)), cut)


def test_the_other_symbols_change_nothing() -> None:
    alone = SimulatedSource(("ETHUSDT",), HOUR, 9, 0.03)
    assert same(alone.bars("ETHUSDT", at(4000), at(5000)), WHOLE.bars("ETHUSDT", at(4000), at(5000)))


@pytest.mark.parametrize(
    "other",
    [
        SimulatedSource(SYMBOLS, HOUR, 10, 0.03),
        SimulatedSource(SYMBOLS, HOUR, 9, 0.02),
    ],
)
def test_seed_and_edge_change_the_market(other: SimulatedSource) -> None:
    assert not same(other.bars("BTCUSDT", at(0), at(100)), WHOLE.bars("BTCUSDT", at(0), at(100)))


def test_what_leaves_the_cache_comes_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "CACHED_CHUNKS", 2)
    small = SimulatedSource(SYMBOLS, HOUR, 9, 0.03)
    for _ in range(2):
        for symbol in SYMBOLS:
            bars = small.bars(symbol, at(0), at(5 * CHUNK_BARS))
            assert same(bars, WHOLE.bars(symbol, at(0), at(5 * CHUNK_BARS)))


def test_another_process_draws_the_same_market() -> None:
    script = (
        "import hashlib; from datetime import timedelta\n"
        "from levibot.market.simulator import SimulatedSource\n"
        "from levibot.market.price_process import MARKET_START\n"
        "h = timedelta(hours=1)\n"
        "first, end = MARKET_START + 4000 * h, MARKET_START + 5000 * h\n"
        "b = SimulatedSource(('ETHUSDT',), h, 9, 0.03).bars('ETHUSDT', first, end)\n"
        "fields = ('ts', 'open', 'high', 'low', 'close', 'volume')\n"
        "print(hashlib.sha256(b''.join(getattr(b, f).tobytes() for f in fields)).hexdigest())\n"
    )
    root = Path(simulator.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert run.stdout.strip() == digest(WHOLE.bars("ETHUSDT", at(4000), at(5000)))


def test_a_range_past_the_horizon_is_refused() -> None:
    with pytest.raises(UsageError, match="past 2100-01-01"):
        WHOLE.bars("BTCUSDT", at(0), MARKET_HORIZON + HOUR)


@pytest.mark.parametrize("edge", [-0.01, 1.0, float("nan")])
def test_an_edge_that_is_no_correlation_is_refused(edge: float) -> None:
    with pytest.raises(UsageError, match="edge"):
        SimulatedSource(SYMBOLS, HOUR, 1, edge)


@pytest.mark.parametrize("interval", [timedelta(0), -HOUR, timedelta(hours=7)])
def test_an_interval_off_the_grid_is_refused(interval: timedelta) -> None:
    with pytest.raises(UsageError, match="cannot be simulated"):
        SimulatedSource(SYMBOLS, interval, 1, 0.0)
