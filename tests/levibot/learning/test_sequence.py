from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from levibot.learning.models.sequence import Samples, Sequence, rows_as_samples


@given(
    n_rows=st.integers(1, 12),
    n_symbols=st.integers(1, 3),
    steps=st.integers(1, 4),
    every_bars=st.integers(1, 4),
    data=st.data(),
)
def test_a_sequence_is_the_rows_it_names(
    n_rows: int, n_symbols: int, steps: int, every_bars: int, data: st.DataObject
) -> None:
    features = np.arange(n_rows * n_symbols * 2, dtype=np.float64).reshape(n_rows, n_symbols, 2)
    places = data.draw(
        st.lists(st.tuples(st.integers(0, n_rows - 1), st.integers(0, n_symbols - 1)), min_size=1, max_size=8)
    )
    row, column = np.array(places).T
    sequence = Sequence(steps, every_bars)
    samples = Samples(features, row, column)
    found = samples.sequences(sequence)
    assert found.shape == (len(places), steps, 2)
    for n, (t, s) in enumerate(places):
        for step in range(steps):
            earlier = t - (steps - 1 - step) * every_bars
            wanted = features[earlier, s] if earlier >= 0 else np.full(2, np.nan)
            np.testing.assert_array_equal(found[n, step], wanted)
    np.testing.assert_array_equal(found[:, -1], samples.newest())
    distinct = samples.gather(sequence)[0][:-1, 0]
    assert len(np.unique(distinct)) == len(distinct)


def test_unrelated_rows_are_points_too() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(rows_as_samples(rows).newest(), rows)
