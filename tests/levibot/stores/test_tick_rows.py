from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import StoreError
from levibot.market.ticks import COLUMNS, Ticks, empty_ticks
from levibot.stores import tick_rows
from levibot.stores.tick_table import JOINED_GAP_S, MARK_TICKS, marks_of

START = np.datetime64("2024-08-09T00:00:00", "us")


def ticks(ms: list[int]) -> Ticks:
    n = len(ms)
    ids = np.arange(1, n + 1)
    return Ticks(
        "AA", START + np.array(ms) * np.timedelta64(1, "ms"), ids + 0.5, ids * 0.1, ids, ids % 2 == 0
    )


def test_rows_come_back_from_copy_data_and_a_cut_is_noticed() -> None:
    written = ticks([0, 1, -5, 10**9])
    keys = 4 + len("market") + 4 + len("AA")
    rows = tick_rows.encode("market", written)
    width = len(rows) // 4
    # The table's rows begin with the two texts, those that are read do not.
    bare = b"".join(
        np.array([5], ">i2").tobytes() + rows[at + 2 + keys : at + width] for at in range(0, len(rows), width)
    )
    read = tick_rows.decode("AA", bytearray(b"".join(tick_rows.blocks(bare))))
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    with pytest.raises(StoreError, match="no whole number of trades"):
        tick_rows.decode("AA", bytearray(b"".join(tick_rows.blocks(bare[:-3]))))


def test_copy_data_is_sent_in_pieces_between_header_and_trailer() -> None:
    rows = tick_rows.encode("market", ticks(list(range(30_000))))
    pieces = list(tick_rows.blocks(rows))
    assert max(map(len, pieces)) <= tick_rows.BLOCK_BYTES
    assert b"".join(pieces[1:-1]) == rows
    assert (pieces[0], pieces[-1]) == (tick_rows.HEADER, tick_rows.TRAILER)
    assert list(tick_rows.blocks(tick_rows.encode("m", empty_ticks("AA")))) == [pieces[0], pieces[-1]]


def test_marks_cover_the_seconds_of_the_trades_and_leave_long_holes_out() -> None:
    hole_ms = 1000 * (JOINED_GAP_S + 1)
    marks = marks_of(ticks([1500, hole_ms + 2600, 2499, 0]))
    at = datetime(2024, 8, 9, tzinfo=UTC)
    assert marks.lowers == [at, at + timedelta(seconds=JOINED_GAP_S + 3)]
    assert marks.uppers == [at + timedelta(seconds=3), at + timedelta(seconds=JOINED_GAP_S + 4)]
    assert marks.counts == [3, 1]


def test_a_mark_is_never_of_more_trades_than_its_limit() -> None:
    marks = marks_of(ticks([k // 10 for k in range(2 * MARK_TICKS + 1)]))
    assert marks.counts == [MARK_TICKS, MARK_TICKS, 1]
    assert all(lower < upper for lower, upper in zip(marks.lowers, marks.uppers, strict=True))
