"""The binary form of a feature window."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from levibot.errors import DataError
from levibot.stores.packed import (
    FeatureWindow,
    Identity,
    ValueTime,
    check_window,
    microseconds,
    pack,
    unpack,
    unpack_many,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENT_TIME = datetime(2024, 5, 1, 12, tzinfo=UTC)
WRITTEN_AT = EVENT_TIME + timedelta(seconds=2)

names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1, max_size=12).filter(
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


def timed(name: str, own: ValueTime) -> FeatureWindow:
    return FeatureWindow("BTC", EVENT_TIME, ("a",), np.ones((1, 1)), {name: own})


def a_window() -> FeatureWindow:
    return FeatureWindow("BTCUSDT", EVENT_TIME, ("ret_1", "vol_24"), np.array([[0.1, np.nan], [0.3, 2.0]]))


def identity_of(window: FeatureWindow, market: str = "simulated:1h", view: str = "abc123") -> Identity:
    return Identity.of(market, view, window.names)


def stamped(window: FeatureWindow, identity: Identity, rows: int | None = None, stamp_us: int = 77) -> bytes:
    """What lies in Redis once the script has written it."""
    packed = pack(window, identity, rows=rows or len(window.rows), written_at=WRITTEN_AT, ttl_us=60_000_000)
    return struct.pack("<2q", stamp_us, -stamp_us) + packed


@given(
    window=windows(), market=st.text(max_size=30), view=st.text(max_size=30), stamp_us=st.integers(0, 2**60)
)
def test_a_packed_window_comes_back_bit_for_bit(
    window: FeatureWindow, market: str, view: str, stamp_us: int
) -> None:
    check_window(window)
    identity = identity_of(window, market, view)
    found = unpack(stamped(window, identity, stamp_us=stamp_us), identity)
    assert found is not None
    assert found.rows.tobytes() == window.rows.tobytes()
    assert found.rows.shape == window.rows.shape
    assert found[:4] == (stamp_us, microseconds(window.event_time), microseconds(WRITTEN_AT), 60_000_000)
    assert len(found.own) == 0


@given(window=windows(), rows=st.integers(1, 5))
def test_the_newest_rows_alone_can_be_packed(window: FeatureWindow, rows: int) -> None:
    identity = identity_of(window)
    found = unpack(stamped(window, identity, rows), identity)
    assert found is not None
    assert found.rows.tobytes() == window.rows[-rows:].tobytes()


@given(many=st.lists(windows(), min_size=1, max_size=4), stamp_us=st.integers(0, 2**60))
def test_many_vectors_are_read_as_each_one_is(many: list[FeatureWindow], stamp_us: int) -> None:
    first = many[0]
    identity = identity_of(first)
    same = [replace(first, rows=w.rows[-1:, :1].repeat(len(first.names), axis=1)) for w in many]
    stored = [stamped(w, identity, 1, stamp_us + n) for n, w in enumerate(same)]
    found = unpack_many(stored, identity)
    assert found is not None
    assert found.is_known.all()
    for row, data in enumerate(stored):
        alone = unpack(data, identity)
        assert alone is not None
        assert found.at(row)[:4] == alone[:4]
        assert found.at(row).rows.tobytes() == alone.rows.tobytes()


def test_a_vector_of_another_view_is_not_known() -> None:
    window = a_window()
    mine, other = identity_of(window), identity_of(window, view="abc124")
    stored = [stamped(window, mine, 1), stamped(window, other, 1)]
    assert unpack(stored[1], mine) is None
    found = unpack_many(stored, mine)
    assert found is not None
    assert found.is_known.tolist() == [True, False]


@pytest.mark.parametrize("change", [{"market": "simulated:1d"}, {"view": "abc124"}, {"names": ("a", "c")}])
def test_an_identity_changes_with_all_that_it_names(change: dict[str, Any]) -> None:
    described = {"market": "simulated:1h", "view": "abc123", "names": ("a", "b")}
    assert Identity.of(*described.values()).words != Identity.of(*(described | change).values()).words


def test_times_of_values_come_back() -> None:
    own = {
        "vol_24": ValueTime(EVENT_TIME - timedelta(hours=3), timedelta(seconds=0.3), timedelta(hours=8)),
        "ret_1": ValueTime(EVENT_TIME),
    }
    window = replace(a_window(), own_times=own)
    identity = identity_of(window)
    found = unpack(stamped(window, identity), identity)
    assert found is not None
    event_us = microseconds(EVENT_TIME)
    assert found.own.tolist() == [
        [1, event_us - 3 * 3600 * 10**6, 300_000, 8 * 3600 * 10**6],
        [0, event_us, -1, 0],
    ]
    # They are of another size, and so are read one by one.
    assert unpack_many([stamped(window, identity, 1)], identity) is None


@given(data=st.data(), rows=st.sampled_from([1, 2]))
def test_a_flipped_bit_is_refused(data: st.DataObject, rows: int) -> None:
    identity = identity_of(a_window())
    packed = bytearray(stamped(a_window(), identity, rows))
    position = data.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError):  # noqa: PT011 - the reason differs with the place of the bit
        unpack(bytes(packed), identity)
    assert unpack_many([bytes(packed)], identity) is None


@given(data=st.data())
def test_a_cut_or_lengthened_window_is_refused(data: st.DataObject) -> None:
    identity = identity_of(a_window())
    packed = stamped(a_window(), identity)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(ValueError):  # noqa: PT011
        unpack(cut, identity)
    with pytest.raises(ValueError, match="its header says"):
        unpack(packed + data.draw(st.binary(min_size=1, max_size=16)), identity)


@given(noise=st.binary(max_size=200))
def test_noise_is_refused_and_never_breaks_the_reader(noise: bytes) -> None:
    identity = identity_of(a_window())
    with pytest.raises(ValueError):  # noqa: PT011
        unpack(noise, identity)
    assert unpack_many([noise], identity) is None


def test_the_event_time_follows_the_prefix() -> None:
    # The script inside Redis relies on it.
    identity = identity_of(a_window())
    packed = stamped(a_window(), identity)
    assert packed[24:].startswith(identity.prefix)
    stored_us = int.from_bytes(packed[48:56], "little", signed=True)
    assert stored_us == microseconds(EVENT_TIME)


def test_rows_are_read_only() -> None:
    identity = identity_of(a_window())
    found = unpack(stamped(a_window(), identity), identity)
    assert found is not None
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
        (timed("b", ValueTime(EVENT_TIME)), "none of its features"),
        (timed("a", ValueTime(EVENT_TIME.replace(tzinfo=None))), "a of BTC is of .* without a time zone"),
        (timed("a", ValueTime(EVENT_TIME, timedelta(0))), "lives for 0:00:00"),
        (timed("a", ValueTime(EVENT_TIME, every=timedelta(-1))), "comes every -1 day"),
    ],
)
def test_a_window_that_breaks_its_schema_is_refused(window: FeatureWindow, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        check_window(window)


def test_microseconds_are_exact() -> None:
    instant = datetime(2024, 5, 1, 12, 0, 0, 123457, tzinfo=UTC)
    assert microseconds(instant + timedelta(microseconds=1)) == microseconds(instant) + 1
