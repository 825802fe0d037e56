"""How old an answer may be: the limits belong to what they allow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import NotReady
from levibot.serving.answer import AnswerPolicy
from levibot.stores.online import Freshness, Signal

AS_OF = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = timedelta(microseconds=1)
SIGNAL = Signal("BTCUSDT", AS_OF, 0.5, 0.1, "v1", "view", "market", "simulated")
POLICY = AnswerPolicy(HOUR, fresh_bars=2.0, usable_bars=24.0)


@pytest.mark.parametrize(
    ("age", "freshness"),
    [
        (timedelta(0), Freshness.FRESH),
        (-HOUR, Freshness.FRESH),
        (2 * HOUR, Freshness.FRESH),
        (2 * HOUR + US, Freshness.STALE),
        (24 * HOUR, Freshness.STALE),
    ],
)
def test_an_answer_is_called_what_its_age_makes_it(age: timedelta, freshness: Freshness) -> None:
    answer = POLICY.answer(SIGNAL, AS_OF + age, "cache")
    assert (answer.freshness, answer.served_from, answer.signal) == (freshness, "cache", SIGNAL)
    assert answer.feature_age_s == max(0.0, age.total_seconds())
    assert POLICY.is_fresh(SIGNAL, AS_OF + age) == (freshness is Freshness.FRESH)


def test_what_is_too_old_is_refused_with_its_age_and_the_limit() -> None:
    with pytest.raises(NotReady, match=r"BTCUSDT is 90000 s old .* older than 86400 s is used\. .*/readyz"):
        POLICY.answer(SIGNAL, AS_OF + 25 * HOUR, "memory")
    with pytest.raises(NotReady):
        POLICY.answer(SIGNAL, AS_OF + 24 * HOUR + US, "memory")


bars = st.floats(1e-3, 1e3)
ages = st.timedeltas(timedelta(hours=-10), timedelta(days=400))
intervals = st.sampled_from([timedelta(minutes=1), HOUR, timedelta(days=1)])


@given(fresh=bars, usable=bars, age=ages, interval=intervals)
def test_no_answer_is_fresher_than_its_age_allows(
    fresh: float, usable: float, age: timedelta, interval: timedelta
) -> None:
    policy = AnswerPolicy(interval, fresh, usable)
    age_bars = max(timedelta(0), age) / interval
    try:
        answer = policy.answer(SIGNAL, AS_OF + age, "cache")
    except NotReady:
        assert age_bars > usable * (1.0 - 1e-9)
        return
    assert answer.feature_age_s >= 0.0
    assert age_bars <= usable * (1.0 + 1e-9)
    if answer.freshness is Freshness.FRESH:
        assert age_bars <= fresh * (1.0 + 1e-9)
    else:
        assert answer.freshness is Freshness.STALE
        assert age_bars > fresh * (1.0 - 1e-9)


@given(first=ages, wait=st.timedeltas(timedelta(0), timedelta(days=30)))
def test_waiting_never_makes_an_answer_fresher(first: timedelta, wait: timedelta) -> None:
    order = {Freshness.FRESH: 0, Freshness.STALE: 1, None: 2}

    def state(age: timedelta) -> Freshness | None:
        try:
            return POLICY.answer(SIGNAL, AS_OF + age, "cache").freshness
        except NotReady:
            return None

    assert order[state(first)] <= order[state(first + wait)]
