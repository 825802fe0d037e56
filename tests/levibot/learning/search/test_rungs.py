"""Who goes on, and who is stopped."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.errors import DataError
from levibot.learning.search.pareto import Score, front_ranks
from levibot.learning.search.rungs import Ladder, places

score = st.builds(Score, st.floats(-3, 3), st.floats(-1, 0))


@pytest.mark.parametrize(
    ("n_folds", "budgets"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_budgets_double_and_end_with_all_folds(n_folds: int, budgets: tuple[int, ...]) -> None:
    ladder = Ladder(n_folds)
    assert ladder.budgets == budgets
    assert [ladder.after(b) for b in (0, *budgets[:-1])] == list(budgets)
    with pytest.raises(DataError, match="all there are"):
        ladder.after(n_folds)


@given(st.lists(score, min_size=4, max_size=30))
def test_of_a_full_rung_the_best_fronts_go_on_and_the_rest_does_not(some: list[Score]) -> None:
    ladder = Ladder(8)
    ranks = front_ranks(some)
    kept = [ladder.goes_on(s, [*some[:k], *some[k + 1 :]]) for k, s in enumerate(some)]
    # By whole fronts: none that is stopped lies on a front of one that goes on.
    assert all(ranks[k] < ranks[j] for k, ok in enumerate(kept) if ok for j, no in enumerate(kept) if not no)
    assert all(ok for k, ok in enumerate(kept) if ranks[k] == 0)
    # The last front that goes on is the one that fills the share.
    last = max(int(ranks[k]) for k, ok in enumerate(kept) if ok)
    assert last == 0 or (ranks < last).sum() < len(some) / 3
    assert not (ranks > last).any() or (ranks <= last).sum() >= len(some) / 3 - 1e-9


@given(score, st.lists(score, max_size=20))
def test_a_better_score_is_never_stopped_where_a_worse_one_is_not(own: Score, others: list[Score]) -> None:
    better = Score(own.net_sharpe + 0.5, own.max_drawdown)
    assert Ladder(8).goes_on(better, others) >= Ladder(8).goes_on(own, others)


def test_the_first_at_a_rung_go_on_whatever_they_score() -> None:
    good, bad = Score(2.0, -0.1), Score(-2.0, -0.5)
    assert Ladder(8, fewest=4).goes_on(bad, [good] * 2)
    assert not Ladder(8, fewest=4).goes_on(bad, [good] * 3)
    assert not Ladder(8).goes_on(Score(math.nan, 0.0), [Score(-1.0, 0.0)] * 3)


def test_a_ladder_that_keeps_nobody_is_refused() -> None:
    for wrong in ((0, 0.5, 4), (8, 0.0, 4), (8, 1.5, 4), (8, 0.5, 0)):
        with pytest.raises(DataError, match="A ladder of"):
            Ladder(*wrong)


@given(st.lists(st.tuples(st.sampled_from([1, 2, 4]), score), min_size=1, max_size=12))
def test_places_go_by_rung_then_by_front_and_each_is_given_once(some: list[tuple[int, Score]]) -> None:
    # Below its highest rung a candidate may have scored whatever it wants.
    found = places([{1: Score(9.0, 0.0), highest: own} for highest, own in some])
    assert sorted(found) == list(range(len(some)))
    ranks = {rung: iter(front_ranks([own for highest, own in some if highest == rung])) for rung in (1, 2, 4)}
    keys = [(-highest, int(next(ranks[highest]))) for highest, _ in some]
    assert [keys[k] for k in sorted(range(len(some)), key=lambda k: found[k])] == sorted(keys)


def test_on_a_front_the_ends_come_first_and_then_who_stands_alone() -> None:
    front = [Score(0.9, -0.10), Score(1.0, -0.11), Score(3.0, -0.5), Score(2.0, -0.2), Score(0.0, 0.0)]
    found = places([{1: score} for score in front])
    assert {found[2], found[4]} == {0, 1}
    assert found[3] == 2
