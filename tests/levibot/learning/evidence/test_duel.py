from __future__ import annotations

import numpy as np

from levibot.learning.evidence.duel import FIRST_DAYS, duel


def test_a_better_ratio_is_found_whatever_the_size_of_the_account() -> None:
    rng = np.random.default_rng(1)
    control = rng.normal(0.0, 0.01, 1_500)
    better = 5.0 * (control + 0.002 + rng.normal(0.0, 0.003, 1_500))
    found = duel(better, control)
    assert found.first_is_better is True
    assert found.decided_after is not None
    assert duel(control, better).first_is_better is False
    # Five times the same account is no better one.
    assert duel(5.0 * control, control).decided_after is None


def test_streams_of_one_skill_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(2)
    decided = sum(duel(*rng.normal(0.001, 0.01, (2, 900))).decided_after is not None for _ in range(100))
    assert decided <= 12


def test_a_week_is_measured_by_the_risk_before_it() -> None:
    """The planted fault would be a deviation that knows the week itself: later days must not move a week."""
    rng = np.random.default_rng(3)
    one, other = rng.normal(0.0, 0.01, (2, 400))
    early = duel(one[:300], other[:300])
    later = np.where(np.arange(400) < 300, one, 100.0 * one)
    assert duel(later[:300], other[:300]).mean == early.mean
    assert early.weeks == (300 - FIRST_DAYS) // 7


def test_few_days_decide_nothing() -> None:
    nothing = duel(np.zeros(40), np.ones(40))
    assert nothing.weeks == 0
    assert nothing.to_json() == {
        "weeks": 0,
        "mean": None,
        "low": None,
        "high": None,
        "decided_after_weeks": None,
        "first_is_better": None,
    }
