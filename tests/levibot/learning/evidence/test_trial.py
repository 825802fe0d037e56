"""What makes a trial one, and what is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone
from typing import Any

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.evidence.trial import outcome_run_id, pack_returns, unpack_returns
from levibot.trading.metrics import sharpe
from tests.trial_books import END, NOW, START, trial


def test_the_same_content_is_the_same_trial_however_it_is_written() -> None:
    one = trial(parameters={"a": 1, "b": [0.5, None]})
    eastward = START.astimezone(timezone(timedelta(hours=9)))
    again = trial(
        parameters={"b": [0.5, None], "a": 1},
        start=eastward,
        scored_at=NOW + timedelta(days=1),
        net_sharpe=1.0,
    )
    assert again.trial_id == one.trial_id
    assert len(one.trial_id) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": "study-2"},
        {"seed": 8},
        {"data_hash": "e"},
        {"view_version": "x"},
        {"parameters": {"n": 1}},
        {"end": END + timedelta(days=1)},
        {"budget": 0.5},
    ],
)
def test_another_content_is_another_trial(change: dict[str, Any]) -> None:
    assert trial(**change).trial_id != trial().trial_id


def test_a_run_without_a_study_is_named_after_its_outcome() -> None:
    days = np.random.default_rng(0).normal(0.0, 0.01, 100)
    assert outcome_run_id("hand", days) == outcome_run_id("hand", days.copy())
    assert outcome_run_id("hand", days) != outcome_run_id("hand", days[::-1])
    assert outcome_run_id("hand", days) != outcome_run_id("yardstick", days)


def test_kept_returns_have_the_same_ratio() -> None:
    days = np.random.default_rng(1).standard_t(3, 730) * 0.02 + 0.001
    kept = unpack_returns(pack_returns(days))
    assert kept is not None
    assert len(pack_returns(days)) == 4 * 730
    assert sharpe(kept) == pytest.approx(sharpe(days), rel=1e-6)
    assert unpack_returns(None) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_id": ""}, "cannot be counted"),
        ({"end": START}, "cannot be counted"),
        ({"budget": 0.0}, "budget 0.0 cannot be counted"),
        ({"budget": 1.5}, "cannot be counted"),
        ({"seed": -1}, "seed of a trial is -1"),
        ({"seed": 2**63}, "below 2\\*\\*63"),
        ({"net_sharpe": float("nan")}, "Sharpe ratio of a trial is nan"),
        ({"gross_sharpe": float("inf")}, "Sharpe ratio of a trial is inf"),
        ({"parameters": {"x": float("nan")}}, "are no JSON"),
        ({"parameters": {"x": {1, 2}}}, "are no JSON"),
        ({"parameters": {"x": "\ud800"}}, "are no JSON"),
        ({"parameters": {"x": "a\0b"}}, "null character"),
        ({"market_id": "a\0b"}, "null character"),
        ({"n_days": 3, "daily_returns": np.zeros(2)}, "3 days has 2 daily returns"),
    ],
)
def test_what_no_store_could_keep_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        trial(**change)


def test_a_record_keeps_the_name_it_went_in_with() -> None:
    assert replace(trial(), trial_id="f" * 64).trial_id == "f" * 64
