"""A walk's quarters: what teaches, what chooses and what is traded never meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.evidence.book import Scored
from levibot.learning.walk_forward import end_of_day
from levibot.trading.metrics import sharpe
from rl.exam import Exam
from rl.walk import Quarter, quarters, summary
from tests.trial_books import NOW, new_book


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


def quarter(seed: int, n: int) -> Quarter:
    """Of three months; holding is the same whoever trades."""
    begin = datetime(2022, 1 + 3 * n, 1, tzinfo=UTC)

    def exam(seed: int, drift: float) -> Exam:
        net = np.random.default_rng(seed).normal(drift, 0.01, 90)
        return Exam(net, net + 0.001, 0.5)

    ours = exam(10 * seed + n, 0.001)
    counted = Scored(
        data_hash=f"bars-{n}",
        view="core",
        view_version="v",
        seed=seed,
        parameters={"quarter": n},
        start=begin,
        end=begin + timedelta(days=90),
        started_at=NOW,
        net_sharpe=ours.net_sharpe,
        gross_sharpe=ours.gross_sharpe,
        daily_returns=ours.daily_net,
    )
    return Quarter(ours, exam(100 + n, 0.0), counted)


def test_a_walk_is_summed_up_over_its_quarters_and_seeds_none_of_them_chosen() -> None:
    walks = {seed: [quarter(seed, n) for n in range(2)] for seed in range(3)}
    book = new_book()
    found = summary(walks, book)
    daily = [np.concatenate([one.exam.daily_net for one in walked]) for walked in walks.values()]
    holding = np.concatenate([one.held.daily_net for one in walks[0]])

    assert found["net_sharpe_of_seeds"] == [sharpe(one) for one in daily]
    assert found["mean"] == pytest.approx(np.mean(found["net_sharpe_of_seeds"]))
    assert found["all_seeds"]["net_sharpe"] == pytest.approx(sharpe(np.mean(daily, axis=0)))
    assert found["buy_and_hold"]["net_sharpe"] == sharpe(holding)
    assert found["days"] == 180
    low, high = found["gain_over_holding"]["interval"]
    assert low < found["gain_over_holding"]["net_sharpe"] < high
    assert summary({0: walks[0]}, new_book())["spread"] is None

    # What is told is what was counted, over the whole walk; holding is a yardstick.
    kept = book.journal.newest()
    ratios = {trial.seed: trial.net_sharpe for trial in kept if trial.parameters["role"] == "walk"}
    assert list(dict(sorted(ratios.items())).values()) == found["net_sharpe_of_seeds"]
    others = {t.parameters["role"]: t for t in kept if t.parameters["role"] != "walk"}
    assert others["all_seeds"].net_sharpe == found["all_seeds"]["net_sharpe"]
    assert others["buy_and_hold"].net_sharpe == found["buy_and_hold"]["net_sharpe"]
    assert others["buy_and_hold"].kind == "yardstick"
    assert {(t.start, t.end) for t in kept} == {(walks[0][0].counted.start, walks[0][1].counted.end)}
    assert len(kept) == 5
    # The same again is the same trials.
    summary(walks, book)
    assert len(book.journal.newest()) == 5
