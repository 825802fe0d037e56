"""The binary form of a feature window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from levibot.errors import DataError
from levibot.stores.packed import FeatureWindow, check_window, microseconds, pack, prefix, unpack

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENT_TIME = datetime(2024, 5, 1, 12, tzinfo=UTC)

names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=12).filter(
        lambda name: not name.startswith("_")
    ),
    min_size=1,
    max_size=6,
    unique=True,
).map(tuple)


@st.composite
def windows(draw: st.DrawFn) -> FeatureWindow:
    columns = draw(names)
    shape = (draw(st.integers(1, 5)), len(columns))
    rows = draw(hnp.arrays(np.float64, shape, elements=st.floats(allow_infinity=False)))
    instant = EPOCH + timedelta(microseconds=draw(st.integers(0, 2**52)))
    return FeatureWindow("BTCUSDT", instant, columns, rows)


def a_window() -> FeatureWindow:
    return FeatureWindow("BTCUSDT", EVENT_TIME, ("ret_1", "vol_24"), np.array([[0.1, np.nan], [0.3, 2.0]]))


@given(window=windows(), market=st.text(max_size=30), view=st.text(max_size=30))
def test_a_packed_window_comes_back_bit_for_bit(window: FeatureWindow, market: str, view: str) -> None:
    check_window(window)
    found = unpack(pack(window, prefix(market, view)))
    assert (found.market_id, found.view_version) == (market, view)
    assert (found.event_time, found.names) == (window.event_time, window.names)
    assert found.rows.tobytes() == window.rows.tobytes()
    assert found.rows.shape == window.rows.shape


@given(data=st.data())
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    packed = bytearray(pack(a_window(), prefix("simulated:1h", "abc123")))
    position = data.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):  # noqa: PT011 - the reason differs with the place of the bit
        unpack(bytes(packed))


@given(data=st.data())
def test_a_cut_or_lengthened_window_is_refused(data: st.DataObject) -> None:
    packed = pack(a_window(), prefix("simulated:1h", "abc123"))
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(ValueError):  # noqa: PT011
        unpack(cut)
    with pytest.raises(ValueError, match="its header says"):
        unpack(packed + data.draw(st.binary(min_size=1, max_size=16)))


@given(noise=st.binary(max_size=200))
def test_noise_is_refused_and_never_breaks_the_reader(noise: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        unpack(noise)


def test_the_event_time_follows_the_prefix() -> None:
    # The script inside Redis relies on it.
    identity = prefix("simulated:1h", "abc123")
    packed = pack(a_window(), identity)
    assert packed.startswith(identity)
    stored_us = int.from_bytes(packed[len(identity) : len(identity) + 8], "little", signed=True)
    assert stored_us == microseconds(EVENT_TIME)


def test_rows_are_read_only() -> None:
    found = unpack(pack(a_window(), prefix("m", "v")))
    with pytest.raises(ValueError, match="read-only"):
        found.rows[0, 0] = 1.0


@pytest.mark.parametrize(
    ("window", "problem"),
    [
        (
            FeatureWindow("BTC", EVENT_TIME.replace(tzinfo=None), ("a",), np.ones((1, 1))),
            "without a time zone",
        ),
        (FeatureWindow("BTC", EVENT_TIME, ("a", "b"), np.ones((1, 1))), "shape"),
        (FeatureWindow("BTC", EVENT_TIME, ("a",), np.ones((0, 1))), "shape"),
        (FeatureWindow("BTC", EVENT_TIME, ("a",), np.ones(1)), "shape"),
        (FeatureWindow("BTC", EVENT_TIME, (), np.ones((1, 0))), "shape"),
        (FeatureWindow("BTC", EVENT_TIME, ("a", "b"), np.array([[1.0, np.inf]])), "b of BTC is infinite"),
        (FeatureWindow("BTC", EVENT_TIME, ("a", "a"), np.ones((1, 2))), "twice"),
        (FeatureWindow("BTC", EVENT_TIME, ("_market",), np.ones((1, 1))), "no feature name"),
        (FeatureWindow("BTC", EVENT_TIME, ("a\nb",), np.ones((1, 1))), "no feature name"),
    ],
)
def test_a_window_that_breaks_its_schema_is_refused(window: FeatureWindow, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        check_window(window)


def test_microseconds_are_exact() -> None:
    instant = datetime(2024, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
    assert microseconds(instant + timedelta(microseconds=1)) == microseconds(instant) + 1
