from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from levibot.errors import DataError
from levibot.learning.barriers import triple_barriers, uniqueness
from levibot.learning.labels import forward_returns
from levibot.market.bars import FloatArray, Panel

HOUR = timedelta(hours=1)
YEAR = 8_760
# One deviation of four bars is a tenth.
VOL = 0.1 / np.sqrt(4 / YEAR)


def panel_of(opened: list[float], high: list[float], low: list[float]) -> Panel:
    columns = [np.array(values)[:, None] for values in (opened, high, low)]
    ts = np.datetime64("2024-01-01", "us") + np.arange(len(opened)) * np.timedelta64(HOUR)
    return Panel(("BTCUSDT",), HOUR, ts, *columns, columns[0], np.ones_like(columns[0]))


def vol(panel: Panel) -> FloatArray:
    return np.full(panel.open.shape, VOL)


def test_the_first_barrier_that_is_touched_decides_and_says_when() -> None:
    still = [100.0] * 8
    high = [*still[:3], 120.0, *still[4:]]
    low = [*still[:5], 80.0, *still[6:]]
    labels = triple_barriers(panel := panel_of(still, high, low), vol(panel), 4)
    # Row 0 buys at the open of row 1: up in row 3. Row 3 buys at the open of row 4: down in row 5.
    assert labels.values[:4, 0].tolist() == [1.0, 1.0, 1.0, -1.0]
    assert labels.ends()[:4, 0].tolist() == [3, 3, 3, 5]
    assert labels.available_at[0] == np.datetime64("2024-01-01T04:00", "us")
    # Row 5 buys at the open of row 6: nothing is touched, and the end of its horizon is not there yet.
    assert np.isnan(labels.values[5, 0])
    assert np.isnat(labels.available_at[5])


def test_of_two_barriers_in_one_bar_the_worse_counts() -> None:
    panel = panel_of([100.0] * 7, [*[100.0] * 2, 150.0, *[100.0] * 4], [*[100.0] * 2, 50.0, *[100.0] * 4])
    assert triple_barriers(panel, vol(panel), 4).values[0, 0] == -1.0


@given(
    steps=arrays(np.float64, 60, elements=st.floats(-0.08, 0.08)),
    cut=st.integers(10, 58),
    deviations=st.floats(0.3, 2.5),
)
def test_bars_to_come_change_no_label_that_is_known(steps: FloatArray, cut: int, deviations: float) -> None:
    close = 100.0 * np.exp(np.cumsum(steps))
    opened = np.concatenate(([100.0], close[:-1]))
    highest, lowest = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    whole, early = (
        triple_barriers(
            panel_of(*(of[:n].tolist() for of in (opened, highest, lowest))),
            np.full((n, 1), VOL),
            4,
            deviations=deviations,
        )
        for n in (60, cut)
    )
    known = np.isfinite(early.values)
    np.testing.assert_array_equal(early.values[known], whole.values[:cut][known])
    np.testing.assert_array_equal(early.ends()[known], whole.ends()[:cut][known])
    # Never later than the horizon ends, and never before the row's own bar is over.
    rows = np.arange(cut)[:, None]
    assert ((early.ends() <= rows + 5) & (early.ends() > rows))[known].all()
    assert (np.abs(early.values[known & (early.ends() < rows + 5)]) == deviations).all()


def test_barriers_that_are_never_reached_leave_the_return_over_the_horizon() -> None:
    rng = np.random.default_rng(1)
    opened = (100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, 80)))).tolist()
    panel = panel_of(opened, opened, opened)
    far = triple_barriers(panel, vol(panel), 4, deviations=100.0)
    plain = forward_returns(panel, vol(panel), 4)
    np.testing.assert_array_equal(far.values, plain.values)
    np.testing.assert_array_equal(far.available_at, plain.available_at)
    np.testing.assert_array_equal(far.ends()[:-5], plain.ends()[:-5])
    with pytest.raises(DataError, match="barriers are 0"):
        triple_barriers(panel, vol(panel), 4, deviations=0.0)


def test_uniqueness_is_the_mean_of_one_over_those_that_read_a_bar() -> None:
    # Three labels over [0, 3], [2, 4] and [5, 6], by hand.
    first, last = np.array([0, 2, 5]), np.array([3, 4, 6])
    np.testing.assert_allclose(uniqueness(first, last), [0.75, 2.0 / 3.0, 1.0])
    with pytest.raises(DataError, match="end where they begin"):
        uniqueness(last, first)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), min_size=1, max_size=40))
def test_uniqueness_agrees_with_counting_bar_by_bar(spans: list[tuple[int, int]]) -> None:
    first = np.array([begin for begin, _ in spans])
    last = first + np.array([length for _, length in spans])
    concurrent = [int(((first <= bar) & (bar <= last)).sum()) for bar in range(240)]
    by_hand = [
        np.mean([1.0 / concurrent[bar] for bar in range(b, e + 1)]) for b, e in zip(first, last, strict=True)
    ]
    found = uniqueness(first, last)
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)
    assert ((found > 0.0) & (found <= 1.0 + 1e-12)).all()
