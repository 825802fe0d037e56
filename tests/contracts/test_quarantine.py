"""What the quarantine promises, on real servers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.stores.quarantine import BATCH_ROWS, Refused
from levibot.stores.ticks import TickStore

pytestmark = pytest.mark.stores

ROW = Refused("ticks", "BTCUSDT", "price", {"price": "NaN", "note": "naïve \u0000 text", "id": 7}, "trace-1")


async def test_a_refused_row_is_kept_with_its_reason(tick_store: TickStore) -> None:
    before = datetime.now(UTC) - timedelta(minutes=5)
    assert await tick_store.quarantine.write_many("m", [ROW]) == 1
    (kept,) = await tick_store.quarantine.read("m")
    assert kept.refused == replace(ROW, row={**ROW.row, "note": "naïve \ufffd text"})
    assert before < kept.at < datetime.now(UTC) + timedelta(minutes=5)


async def test_a_row_refused_again_is_one_row(tick_store: TickStore) -> None:
    other = replace(ROW, reason="order")
    assert await tick_store.quarantine.write_many("m", [ROW, other, ROW]) == 2
    assert await tick_store.quarantine.write_many("m", [replace(ROW, trace_id="trace-2")]) == 0
    assert [q.refused.trace_id for q in await tick_store.quarantine.read("m")] == ["trace-1", "trace-1"]


async def test_reads_are_by_market_symbol_and_time_and_bounded(tick_store: TickStore) -> None:
    rows = [replace(ROW, symbol=s, row={"n": n}) for s in ("AA", "BB") for n in range(BATCH_ROWS)]
    assert await tick_store.quarantine.write_many("m", rows) == 2 * BATCH_ROWS
    read = tick_store.quarantine.read
    assert [q.refused.symbol for q in await read("m", "AA", limit=3)] == ["AA"] * 3
    newest = (await read("m", limit=1))[0]
    assert newest.refused.row == {"n": BATCH_ROWS - 1}
    assert len(await read("m", limit=2 * BATCH_ROWS)) == 2 * BATCH_ROWS
    assert await read("m", start=newest.at + timedelta(seconds=1)) == []
    assert await read("m", end=newest.at - timedelta(hours=1)) == []
    assert await read("other") == []


async def test_a_row_that_is_no_json_is_refused_with_everything_beside_it(tick_store: TickStore) -> None:
    with pytest.raises(DataError, match="BTCUSDT for ticks is no JSON"):
        await tick_store.quarantine.write_many("m", [ROW, replace(ROW, row={"price": np.nan})])
    assert await tick_store.quarantine.read("m") == []
    assert await tick_store.quarantine.write_many("m", []) == 0
