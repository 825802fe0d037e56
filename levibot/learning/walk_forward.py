"""Which rows may teach a model that is tested later.

A row teaches only if its label was known, with an embargo on top, when the test begins: rows are purged by
what their label reaches, not by when they were decided (López de Prado 2018, ch. 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import combinations, pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.bars import TimeArray, to_datetime64

BoolArray = npt.NDArray[np.bool_]

Refit = Literal["monthly", "quarterly", "yearly", "never"]
_MONTHS: dict[Refit, int | None] = {"monthly": 1, "quarterly": 3, "yearly": 12, "never": None}

EMBARGO_BARS = 24


@dataclass(frozen=True, slots=True)
class Split:
    """One fit and the stretch it is tested on. All aware UTC; both ends are half-open.

    train_start: first row that may teach. fit_at: the instant at which the model is made; nothing later is
    seen. The model acts in [test_start, test_end), and fit_at is test_start.
    """

    train_start: datetime
    test_start: datetime
    test_end: datetime

    def __str__(self) -> str:
        return (
            f"trained {self.train_start:%Y-%m-%d} to {last_day_before(self.fit_at):%Y-%m-%d}, "
            f"traded {self.test_start:%Y-%m-%d} to {self.last_day:%Y-%m-%d}"
        )

    @property
    def fit_at(self) -> datetime:
        return self.test_start

    @property
    def last_day(self) -> datetime:
        """The end as a person names it, see `last_day_before`."""
        return last_day_before(self.test_end)


def walk_forward(
    train_start: datetime,
    test_start: datetime,
    test_end: datetime,
    *,
    refit: Refit = "quarterly",
    rolling: timedelta | None = None,
) -> tuple[Split, ...]:
    """Cut [test_start, test_end) into stretches, each with its own fit on what came before.

    Stretches begin at test_start and then every month, quarter or year later. The training window begins at
    train_start (expanding), or `rolling` before each stretch if that is later.
    Raises DataError unless train_start < test_start < test_end, and on an unknown `refit`.
    """
    if not train_start < test_start < test_end:
        raise DataError(
            f"Training starts {train_start:%Y-%m-%d}, the test runs {test_start:%Y-%m-%d} to "
            f"{last_day_before(test_end):%Y-%m-%d}: they must come in this order."
        )
    if refit not in _MONTHS:
        raise DataError(f"refit is {refit!r}: it must be one of {', '.join(_MONTHS)}.")
    months = _MONTHS[refit]
    edges = [test_start]
    while months is not None and (later := months_later(test_start, months * len(edges))) < test_end:
        edges.append(later)
    edges.append(test_end)
    return tuple(
        Split(train_start if rolling is None else max(train_start, begin - rolling), begin, end)
        for begin, end in pairwise(edges)
    )


def usable_rows(
    ts: TimeArray, available_at: TimeArray, *, start: datetime, fit_at: datetime, embargo: timedelta
) -> BoolArray:
    """(T,) rows that may teach a model made at `fit_at`.

    ts: (T,) opening instants. available_at: (T,) of their labels, NaT where unknown. A row is usable when it
    opens at `start` or later and its label was available at `fit_at - embargo`.
    """
    known = ~np.isnat(available_at) & (available_at <= to_datetime64(fit_at - embargo))
    return (ts >= to_datetime64(start)) & known


def purged_folds(
    ts: TimeArray,
    available_at: TimeArray,
    usable: BoolArray,
    *,
    n_folds: int,
    embargo: timedelta,
    n_judged: int = 1,
) -> tuple[tuple[BoolArray, BoolArray], ...]:
    """Cut the usable rows into consecutive blocks: (teach, judge) masks (T,), one pair a set of blocks.

    n_judged: how many blocks judge at a time. 1: every block once. 2 or more: every combination of so many
    blocks once, so that each block is judged by models of several pasts and futures (combinatorial purged
    cross-validation, López de Prado 2018, ch. 12). A row teaches when its label's reach, from its opening to
    `available_at`, keeps the embargo from the reach of every row of each judged block, on both sides. Raises
    DataError with fewer than two folds, too few rows, or nothing left to teach.
    """
    rows = np.flatnonzero(usable)
    if n_folds < 2 or len(rows) < n_folds or not 1 <= n_judged < n_folds:
        raise DataError(f"{len(rows)} rows cannot be cut into {n_folds} folds of which {n_judged} judge.")
    gap = np.timedelta64(embargo)
    blocks = np.array_split(rows, n_folds)
    folds = []
    for judging in combinations(blocks, n_judged):
        judge = np.zeros(len(ts), dtype=np.bool_)
        judge[np.concatenate(judging)] = True
        teach = usable & ~judge
        for block in judging:
            first, last = ts[block[0]], available_at[block].max()
            teach &= (available_at + gap <= first) | (ts >= last + gap)
        folds.append((teach, judge))
    return tuple(folds)


def end_of_day(day: datetime) -> datetime:
    """The instant at which a day given as its midnight is over; another instant is returned as it is."""
    return day + timedelta(days=1) if day.timetz() == time(tzinfo=UTC) else day


def last_day_before(end: datetime) -> datetime:
    """The day that is over at `end`, as its midnight; `end` itself where that is no midnight.

    What `end_of_day` turns into `end`: the day that was asked for, not the one after it.
    """
    return end - timedelta(days=1) if end.timetz() == time(tzinfo=UTC) else end


def months_later(instant: datetime, months: int) -> datetime:
    """The same day so many months later, or the last one of a shorter month; before, where negative."""
    total = instant.month - 1 + months
    year, month = instant.year + total // 12, total % 12 + 1
    # The 31st has no counterpart in a shorter month.
    for day in range(instant.day, 27, -1):
        try:
            return instant.replace(year=year, month=month, day=day)
        except ValueError:
            continue
    return instant.replace(year=year, month=month)
