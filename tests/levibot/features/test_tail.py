"""The played tail is the engine's, to the bit, on every window."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.shards import Shard, compute_tail_of
from levibot.features.tail import Tail
from levibot.features.views import CORE, FULL
from levibot.market.bars import FIELDS, Panel

HOUR = np.timedelta64(1, "h")
SYMBOLS = ("BTCUSDT", "ETHUSDT", "ADAUSDT")


def market(n_rows: int, seed: int = 5) -> Panel:
    """Three symbols with all side series, on hours that move with the seed."""
    rng = np.random.default_rng(seed)
    shape = (n_rows, 3)
    close = np.exp(np.cumsum(rng.normal(0.0, 0.01, shape), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    high = np.maximum(opened, close) * (1.0 + 0.005 * rng.random(shape))
    low = np.minimum(opened, close) * (1.0 - 0.005 * rng.random(shape))
    ts = np.datetime64("2024-01-01T00:00:00", "us") + (np.arange(n_rows) + 1000 * seed) * HOUR
    extra = {name: rng.normal(0.001, 0.001, shape) for name in FULL.side_series}
    volume = np.exp(rng.normal(4.0, 1.0, shape))
    return Panel(SYMBOLS, timedelta(hours=1), ts, opened, high, low, close, volume, extra=extra)


def holed(panel: Panel, rows: slice, symbol: int) -> Panel:
    fields = {name: getattr(panel, name).copy() for name in FIELDS}
    for field in fields.values():
        field[rows, symbol] = np.nan
    return replace(panel, **fields)


def standing(panel: Panel, rows: slice, symbol: int) -> Panel:
    fields = {name: getattr(panel, name).copy() for name in FIELDS}
    for name, field in fields.items():
        field[rows, symbol] = 0.0 if name == "volume" else 2.0
    return replace(panel, **fields)


@pytest.mark.parametrize("shard", [Shard(), Shard(0, 2), Shard(1, 2)], ids=str)
@pytest.mark.parametrize("view", [CORE, FULL], ids=lambda view: view.name)
def test_every_window_is_computed_as_the_engine_does(view, shard: Shard) -> None:  # type: ignore[no-untyped-def]
    tail = Tail(view, 3, shard)
    whole = market(view.warmup_bars + 60)
    windows = [
        whole,
        market(view.warmup_bars + 60, seed=9),
        holed(whole, slice(-40, -10), 1),
        holed(whole, slice(0, 2000), 2),
        holed(whole, slice(-1, None), 0),
        standing(whole, slice(-400, None), 1),
        whole.rows(slice(0, 1500)),
        replace(whole, extra={}),
        whole.rows(slice(0, view.warmup_bars + 40)),
    ]
    for panel in windows:
        expected = compute_tail_of(view, panel, 3, shard.owned(panel.symbols))
        found = tail.compute(panel)
        np.testing.assert_array_equal(found, expected)
        assert np.isfinite(found[-1]).any() or not found.size


def test_fewer_rows_than_asked_give_those_there_are() -> None:
    assert Tail(CORE, 5).compute(market(2)).shape == (2, 3, len(CORE.names))


def test_a_result_is_the_callers_own() -> None:
    tail = Tail(CORE, 1)
    panel = market(CORE.warmup_bars + 2)
    first = tail.compute(panel.rows(slice(0, -1)))
    kept = first.copy()
    tail.compute(panel)
    np.testing.assert_array_equal(first, kept)


def test_a_price_that_is_not_positive_is_refused_before_and_after_the_record() -> None:
    good = market(CORE.warmup_bars + 1)
    low = good.low.copy()
    low[-1, 1] = 0.0
    bad = replace(good, low=low)
    for tail in (Tail(CORE, 1), played := Tail(CORE, 1)):
        if tail is played:
            played.compute(good)
        with pytest.raises(DataError, match="low is not positive"):
            tail.compute(bad)
    np.testing.assert_array_equal(played.compute(good), compute_tail_of(CORE, good, 1, SYMBOLS))
