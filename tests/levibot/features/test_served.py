"""A served vector goes through the event log and comes back as it was."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.features.served import EVENT_TYPE, ServedVector
from levibot.stores.event import Event, EventRow

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
SERVED = ServedVector(
    symbol="BTCUSDT",
    market_id="simulated:seed=7:1h",
    view="core",
    view_version="0123456789ab",
    event_time=NOON,
    served_at=NOON + timedelta(seconds=2.25),
    values={"return_1": 0.1 + 0.2, "vol_slow": 0.61},
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(min_size=1, max_size=10), finite, max_size=5))
def test_every_float_comes_back_as_it_was(values: dict[str, float]) -> None:
    served = replace(SERVED, values=values)
    event = EventRow.of(served.to_event()).event()
    back = ServedVector.from_event(event)
    assert back == served
    assert all(math.copysign(1.0, back.values[name]) == math.copysign(1.0, v) for name, v in values.items())


def test_a_missing_value_is_absent() -> None:
    served = replace(SERVED, values={"return_1": math.nan, "vol_slow": 0.5})
    assert ServedVector.from_event(served.to_event()).values == {"vol_slow": 0.5}


def test_a_repeat_of_a_serving_is_one_event_and_another_serving_is_another() -> None:
    event = SERVED.to_event()
    assert event == replace(SERVED).to_event()
    assert event.ts == SERVED.served_at
    assert replace(SERVED, served_at=NOON + timedelta(seconds=3)).to_event().event_id != event.event_id
    assert replace(SERVED, symbol="ETHUSDT").to_event().event_id != event.event_id


def test_instants_of_other_zones_are_the_same_instants() -> None:
    elsewhere = replace(SERVED, event_time=NOON.astimezone(timezone(timedelta(hours=5))))
    assert ServedVector.from_event(elsewhere.to_event()).event_time == NOON


@pytest.mark.parametrize("name", ["event_time", "served_at"])
def test_a_naive_instant_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} .* without a time zone"):
        replace(SERVED, **{name: NOON.replace(tzinfo=None)})


def test_an_infinite_value_is_refused() -> None:
    with pytest.raises(DataError, match="return_1 of BTCUSDT was served as inf"):
        replace(SERVED, values={"return_1": math.inf})


PAYLOAD = dict(SERVED.to_event().payload)


@pytest.mark.parametrize(
    ("event_type", "payload"),
    [
        ("bars", PAYLOAD),
        (EVENT_TYPE, {}),
        (EVENT_TYPE, PAYLOAD | {"values": {"return_1": "0.3"}}),
        (EVENT_TYPE, PAYLOAD | {"values": {"return_1": True}}),
        (EVENT_TYPE, PAYLOAD | {"values": {"return_1": None}}),
        (EVENT_TYPE, PAYLOAD | {"values": [1.0]}),
        (EVENT_TYPE, PAYLOAD | {"event_time": "noon"}),
        (EVENT_TYPE, PAYLOAD | {"event_time": 12}),
        (EVENT_TYPE, PAYLOAD | {"event_time": "2024-05-01T12:00:00"}),
        (EVENT_TYPE, PAYLOAD | {"view": 1}),
    ],
)
def test_something_else_is_refused(event_type: str, payload: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        ServedVector.from_event(Event(event_type, "BTCUSDT", NOON, payload))
