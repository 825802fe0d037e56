"""Fronts and hypervolumes against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.learning.search.pareto import Score, front, front_ranks, hypervolume

# Few values, so that equal ones meet.
scores = st.lists(
    st.builds(
        Score,
        st.sampled_from([math.nan, -1.0, 0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([-0.6, -0.4, -0.3, -0.1, 0.0]),
    ),
    max_size=12,
)
WORST = Score(-2.0, -0.5)


def dominates(one: Score, other: Score) -> bool:
    a, b = ((-math.inf if math.isnan(s.net_sharpe) else s.net_sharpe, s.max_drawdown) for s in (one, other))
    return a[0] >= b[0] and a[1] >= b[1] and a != b


@given(scores)
def test_a_rank_is_one_more_than_that_of_the_best_that_dominate(some: list[Score]) -> None:
    ranks = front_ranks(some)
    for k, score in enumerate(some):
        above = [int(ranks[j]) for j, other in enumerate(some) if dominates(other, score)]
        assert ranks[k] == (max(above) + 1 if above else 0)


@given(scores)
def test_the_front_is_what_nothing_dominates(some: list[Score]) -> None:
    best = front(some)
    expected = {
        k for k, s in enumerate(some) if s.is_defined and not any(dominates(other, s) for other in some)
    }
    assert set(best) == expected
    assert [some[k].net_sharpe for k in best] == sorted((some[k].net_sharpe for k in best), reverse=True)


@given(scores)
def test_the_hypervolume_is_the_area_that_is_dominated(some: list[Score]) -> None:
    # Every value lies on this grid, so its cells are dominated as a whole or not at all.
    ratios, depths = np.arange(-2.0, 2.0, 0.5), np.arange(-0.5, 0.0, 0.1)
    cells = [
        any(s.net_sharpe >= r + 0.5 - 1e-9 and s.max_drawdown >= d + 0.1 - 1e-9 for s in some)
        for r in ratios
        for d in depths
    ]
    assert hypervolume(some, WORST) == pytest.approx(0.05 * sum(cells), abs=1e-12)
