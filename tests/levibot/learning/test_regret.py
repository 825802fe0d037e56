from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.regret import BEST_FIXED, EQUAL_WEIGHT, ORACLE, blended_returns, regrets
from levibot.trading.metrics import sharpe

MEMBERS = ("trend", "strength")


def test_the_oracle_holds_each_weeks_best_and_bounds_the_rest() -> None:
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.normal(size=(701, 2)) + 0.001
    prior = np.tile([0.7, 0.3], (701, 1))
    table = regrets(MEMBERS, returns, {"prior": prior})
    assert set(table) == {"prior", EQUAL_WEIGHT, BEST_FIXED, ORACLE}
    assert table[ORACLE].sharpe == max(way.sharpe for way in table.values())
    assert table["prior"].regret[ORACLE] == pytest.approx(table[ORACLE].sharpe - table["prior"].sharpe)
    assert table["prior"].sharpe == pytest.approx(sharpe(returns @ [0.7, 0.3]))
    assert table[BEST_FIXED].sharpe == pytest.approx(max(sharpe(returns[:, m]) for m in range(2)))
    assert table["prior"].turnover_per_day == 0.0
    assert table[ORACLE].turnover_per_day > 0.0


def test_a_week_belongs_to_the_member_that_was_best_in_it() -> None:
    returns = np.tile([[0.01, -0.01], [0.02, -0.02]], (7, 1))
    returns[7:] *= -1.0
    table = regrets(MEMBERS, returns, {})
    assert table[ORACLE].annual_return == pytest.approx(np.abs(returns[:, 0]).mean() * 365.0)
    assert table[EQUAL_WEIGHT].annual_return == pytest.approx(0.0)
    assert table[EQUAL_WEIGHT].to_json()["sharpe"] is None


def test_a_missing_member_leaves_its_weight_to_the_others() -> None:
    returns = np.array([[0.02, np.nan], [0.02, 0.04], [np.nan, np.nan]])
    blended = blended_returns(returns, np.tile([0.5, 0.5], (3, 1)))
    assert blended.tolist() == pytest.approx([0.02, 0.03, 0.0])


def test_other_shapes_and_taken_names_are_refused() -> None:
    with pytest.raises(DataError):
        regrets(MEMBERS, np.zeros((5, 2)), {"prior": np.zeros((4, 2))})
    with pytest.raises(DataError, match="another name"):
        regrets(MEMBERS, np.zeros((5, 2)), {ORACLE: np.zeros((5, 2))})
