"""What a scorer's ledger does: it counts, and it writes down a look before it gives the data."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levibot.errors import StoreError
from levibot.learning.evidence.book import Scored, TrialBook
from levibot.learning.evidence.hold_out import FINAL
from levibot.market.bars import FloatArray
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.metrics import sharpe
from tests.trial_books import END, NOW, START, new_book

DAYS = np.random.default_rng(0).normal(0.001, 0.01, 366)
INSIDE = datetime(2024, 6, 1, tzinfo=UTC)


def scored(days: FloatArray = DAYS, **change: Any) -> Scored:
    values: dict[str, Any] = {
        "data_hash": "d",
        "view": "core",
        "view_version": "w",
        "seed": 1,
        "parameters": {"trees": 10},
        "start": START,
        "end": END,
        "started_at": NOW,
        "net_sharpe": sharpe(days),
        "gross_sharpe": sharpe(days),
        "daily_returns": days,
    }
    return Scored(**{**values, **change})


def test_a_rerun_is_the_same_trial_and_another_outcome_is_another() -> None:
    book = new_book()
    first = book.record(scored())
    assert book.record(scored()).trial_id == first.trial_id
    assert book.family("d", START, END).n_trials == 1
    # The same parameters, and the code has changed.
    book.record(scored(DAYS[::-1]))
    assert book.family("d", START, END).n_trials == 2
    assert first.scored_at == NOW


def test_a_study_names_its_trials_itself() -> None:
    book = replace(new_book(), kind="search", run_id="study-7")
    assert book.record(scored()).run_id == "study-7"
    # A resumed study that scores a configuration again, and slightly differently, counts it once.
    book.record(scored(DAYS * 1.0001))
    assert book.family("d", START, END).n_trials == 1


def test_a_yardstick_is_kept_and_nothing_is_chosen_from_it() -> None:
    book = new_book()
    book.record(scored(), is_yardstick=True)
    assert book.journal.counts() == {("test", "yardstick"): 1}
    assert book.family("d", START, END).n_trials == 0


def test_a_ratio_that_is_not_defined_is_left_out() -> None:
    book = new_book()
    kept = book.record(scored(np.zeros(5), net_sharpe=float("nan"), gross_sharpe=float("nan")))
    assert (kept.net_sharpe, kept.gross_sharpe, kept.n_days) == (None, None, 5)


def test_the_hold_out_is_given_only_after_the_look_is_written_down() -> None:
    book = new_book()
    seen_before_the_data = []

    def load() -> str:
        seen_before_the_data.append(book.looks)
        return "data"

    for expected in (1, 2, 3):
        assert book.read(START, INSIDE, load, "backtest") == "data"
        assert book.looks == expected
    assert seen_before_the_data == [1, 2, 3]
    assert new_book("other").looks == 0
    (use,) = book.journal.newest(1)
    assert (use.kind, use.parameters) == ("hold-out", {"hold_out": "final", "purpose": "backtest"})
    assert (use.start, use.end) == (FINAL.start, FINAL.end)


def test_a_look_counts_also_where_the_data_could_not_be_read() -> None:
    book = new_book()

    def load() -> str:
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        book.read(START, INSIDE, load, "backtest")
    assert book.looks == 1


@pytest.mark.parametrize(
    ("start", "end", "looks"),
    [(START, FINAL.start, 0), (START, INSIDE, 1), (FINAL.end, datetime(2026, 1, 1, tzinfo=UTC), 0)],
)
def test_only_what_meets_the_hold_out_is_a_look(start: datetime, end: datetime, looks: int) -> None:
    book = new_book()
    book.read(start, end, lambda: None, "backtest")
    assert book.looks == looks


def test_where_the_look_cannot_be_written_the_data_are_not_given(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    book = TrialBook(TrialJournal(tmp_path / "home" / "trials.sqlite"), "m", new_book().clock)
    with pytest.raises(StoreError, match="cannot be written"):
        book.read(START, INSIDE, lambda: pytest.fail("the data were given"), "backtest")
    with pytest.raises(StoreError, match="cannot be written"):
        book.record(scored())


def test_a_book_goes_to_a_worker() -> None:
    book = new_book()
    pickle.loads(pickle.dumps(book)).record(scored())
    assert book.family("d", START, END).n_trials == 1
