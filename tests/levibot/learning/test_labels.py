from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.labels import forward_returns
from levibot.market.bars import FloatArray, Panel

HOUR = timedelta(hours=1)
YEAR = 8_760


def panel_of(opened: FloatArray) -> Panel:
    ts = np.datetime64("2024-01-01", "us") + np.arange(len(opened)) * np.timedelta64(HOUR)
    return Panel(("BTCUSDT",), HOUR, ts, opened, opened, opened, opened, np.ones_like(opened))


def column(*values: float) -> FloatArray:
    return np.array(values)[:, None]


def test_a_label_runs_from_the_next_open_to_the_open_after_the_horizon() -> None:
    panel = panel_of(column(100.0, 110.0, 500.0, 121.0, 1.0))
    vol = np.full((5, 1), np.log(1.1) / np.sqrt(2 / YEAR))
    labels = forward_returns(panel, vol, 2)
    assert labels.values[0, 0] == pytest.approx(1.0)
    assert labels.available_at[0] == np.datetime64("2024-01-01T04:00", "us")


def test_the_last_labels_are_not_known() -> None:
    labels = forward_returns(panel_of(column(*range(1, 11))), np.ones((10, 1)), 3)
    assert np.isfinite(labels.values[:6]).all()
    assert np.isnan(labels.values[6:]).all()
    assert np.isnat(labels.available_at[6:]).all()


def test_a_short_panel_has_no_labels() -> None:
    labels = forward_returns(panel_of(column(1.0, 2.0, 3.0)), np.ones((3, 1)), 24)
    assert np.isnan(labels.values).all()


def test_labels_are_clipped_at_three_deviations() -> None:
    labels = forward_returns(panel_of(column(1.0, 1.0, 1_000.0, 1.0)), np.ones((4, 1)), 1)
    assert labels.values[:2, 0].tolist() == [3.0, -3.0]


def test_a_missing_price_or_volatility_gives_no_label() -> None:
    labels = forward_returns(
        panel_of(column(1.0, np.nan, 2.0, 3.0, 4.0)), column(1.0, 1.0, np.nan, 1.0, 1.0), 1
    )
    assert np.isnan(labels.values[:3, 0]).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("horizon_bars", "rows", "message"), [(0, 5, "horizon is 0"), (1, 4, "Volatility has shape")]
)
def test_broken_input_is_refused(horizon_bars: int, rows: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        forward_returns(panel_of(column(1.0, 2.0, 3.0, 4.0, 5.0)), np.ones((rows, 1)), horizon_bars)
