"""A walk's quarters: what teaches, what chooses and what is traded never meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.walk_forward import end_of_day
from levibot.trading.metrics import sharpe
from rl.exam import Exam
from rl.walk_ppo import quarters, summary


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("first", "last", "n"), [("2022-01-01", "2022-03-31", 1), ("2021-04-01", "2022-12-31", 7)]
)
def test_what_teaches_what_chooses_and_what_is_traded_never_meet(first: str, last: str, n: int) -> None:
    pairs = quarters(first, last)

    assert len(pairs) == n
    assert pairs[0][1].test_start == day(first)
    assert pairs[-1][1].test_end == end_of_day(day(last))
    for choice, test in pairs:
        assert choice.test_start - choice.train_start == timedelta(days=730)
        assert choice.test_end == test.test_start
        assert test.test_end - test.test_start <= timedelta(days=92)
    for (_, test), (choice, _) in pairwise(pairs):
        assert (choice.test_start, choice.test_end) == (test.test_start, test.test_end)


@pytest.mark.parametrize(("first", "last"), [("2022-01-15", "2022-03-31"), ("2022-01-01", "2022-03-15")])
def test_a_walk_begins_and_ends_with_a_month(first: str, last: str) -> None:
    with pytest.raises(DataError, match="no whole quarters"):
        quarters(first, last)


def exam(seed: int, drift: float) -> Exam:
    rng = np.random.default_rng(seed)
    net = rng.normal(drift, 0.01, 90)
    return Exam(net, net + 0.001, 0.5)


def test_a_walk_is_summed_up_over_its_quarters_and_seeds_none_of_them_chosen() -> None:
    walks = [[exam(10 * seed + n, 0.001) for n in range(2)] for seed in range(3)]
    held = [exam(100 + n, 0.0) for n in range(2)]
    found = summary(walks, held)
    daily = [np.concatenate([one.daily_net for one in walked]) for walked in walks]

    assert found["net_sharpe_of_seeds"] == [sharpe(one) for one in daily]
    assert found["mean"] == pytest.approx(np.mean(found["net_sharpe_of_seeds"]))
    assert found["all_seeds"]["net_sharpe"] == pytest.approx(sharpe(np.mean(daily, axis=0)))
    assert found["buy_and_hold"]["net_sharpe"] == sharpe(np.concatenate([one.daily_net for one in held]))
    assert found["days"] == 180
    low, high = found["gain_over_holding"]["interval"]
    assert low < found["gain_over_holding"]["net_sharpe"] < high
    assert summary(walks[:1], held)["spread"] is None
