from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.walk_forward import (
    end_of_day,
    last_day_before,
    purged_folds,
    usable_rows,
    walk_forward,
)


def day(year: int, month: int = 1, day_of_month: int = 1) -> datetime:
    return datetime(year, month, day_of_month, tzinfo=UTC)


def test_quarters_join_without_a_gap_and_expand() -> None:
    splits = walk_forward(day(2020), day(2023), day(2023, 8))
    assert [split.test_start for split in splits] == [day(2023), day(2023, 4), day(2023, 7)]
    assert [split.test_end for split in splits] == [day(2023, 4), day(2023, 7), day(2023, 8)]
    assert {split.train_start for split in splits} == {day(2020)}
    assert all(split.fit_at == split.test_start for split in splits)


def test_a_rolling_window_moves_its_start() -> None:
    splits = walk_forward(day(2020), day(2021), day(2023), refit="yearly", rolling=timedelta(days=365))
    assert [split.train_start for split in splits] == [day(2020, 1, 2), day(2021)]


def test_without_refits_there_is_one_stretch() -> None:
    assert len(walk_forward(day(2020), day(2021), day(2023), refit="never")) == 1


def test_months_that_start_on_the_31st_end_on_the_last_day() -> None:
    splits = walk_forward(day(2020), day(2023, 1, 31), day(2023, 4, 15), refit="monthly")
    assert [split.test_start.day for split in splits] == [31, 28, 31]


def test_a_split_prints_what_it_is() -> None:
    assert "test_start=datetime.datetime(2023, 1, 1" in repr(walk_forward(day(2020), day(2023), day(2024))[0])


def test_a_split_says_what_it_is() -> None:
    split = walk_forward(day(2020), day(2023), day(2024), rolling=timedelta(days=365))[1]
    assert str(split) == "trained 2022-04-01 to 2023-03-31, traded 2023-04-01 to 2023-06-30"


@pytest.mark.parametrize("dates", [(day(2021), day(2020), day(2022)), (day(2020), day(2022), day(2022))])
def test_dates_out_of_order_are_refused(dates: tuple[datetime, datetime, datetime]) -> None:
    with pytest.raises(DataError, match="in this order"):
        walk_forward(*dates)


def test_an_unknown_refit_is_refused() -> None:
    with pytest.raises(DataError, match="refit is 'weekly'"):
        walk_forward(day(2020), day(2021), day(2022), refit="weekly")  # type: ignore[arg-type]


def test_rows_are_purged_by_what_their_label_reaches() -> None:
    ts = np.datetime64("2020-01-01", "us") + np.arange(10) * np.timedelta64(1, "h")
    available_at = ts + np.timedelta64(3, "h")
    available_at[9] = np.datetime64("NaT")
    start, fit_at = day(2020) + timedelta(hours=2), day(2020) + timedelta(hours=9)
    rows = usable_rows(ts, available_at, start=start, fit_at=fit_at, embargo=timedelta(hours=1))
    assert np.flatnonzero(rows).tolist() == [2, 3, 4, 5]


def test_too_few_rows_cannot_be_folded() -> None:
    ts = np.array(["2020-01-01"], dtype="datetime64[us]")
    with pytest.raises(DataError, match="1 rows cannot be cut into 2 folds"):
        purged_folds(ts, ts, np.ones(1, np.bool_), n_folds=2, embargo=timedelta(0))


def test_a_date_includes_its_whole_day_and_is_named_as_it_was_given() -> None:
    last = datetime(2024, 12, 31, tzinfo=UTC)
    assert end_of_day(last) == day(2025)
    assert last_day_before(day(2025)) == last
    noon = last + timedelta(hours=12)
    assert end_of_day(noon) == last_day_before(noon) == noon
    (split,) = walk_forward(day(2020), day(2024), day(2025), refit="never")
    assert split.last_day == last
