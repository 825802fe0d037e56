from __future__ import annotations

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.sizing import banded

NAN = float("nan")


def test_a_side_costs_ten_basis_points_by_default() -> None:
    assert Costs().total_bps == 10.0
    assert Costs().fee_rate == pytest.approx(0.00075)
    assert Costs().slippage_rate == pytest.approx(0.00025)


@pytest.mark.parametrize("bad", [-0.1, 1_000.1, NAN])
def test_costs_outside_their_limits_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match="fee_bps"):
        Costs(fee_bps=bad)
    with pytest.raises(DataError, match="slippage_bps"):
        Costs(slippage_bps=bad)
    with pytest.raises(DataError, match="impact_bps"):
        Costs(impact_bps=bad)


def test_a_total_keeps_the_split() -> None:
    assert Costs().with_total(20.0) == Costs(15.0, 5.0)
    assert NO_COSTS.with_total(20.0) == Costs(20.0, 0.0)
    assert Costs(impact_bps=7.0).with_total(20.0) == Costs(15.0, 5.0, 7.0)


def test_a_position_within_the_band_is_left_alone() -> None:
    ordered = banded(np.array([0.10, 0.10, NAN]), np.array([0.095, 0.112, 0.5]), 0.012)
    assert np.isnan(ordered).all()


def test_a_position_beyond_the_band_moves_to_its_edge() -> None:
    ordered = banded(np.array([0.10, 0.10, -0.10]), np.array([0.0, 0.2, 0.0]), 0.012)
    assert ordered.tolist() == pytest.approx([0.088, 0.112, -0.088])


def test_without_a_band_every_target_is_ordered() -> None:
    assert banded(np.array([0.1, 0.2]), np.array([0.1, 0.0]), 0.0).tolist() == [0.1, 0.2]


def test_a_band_trades_less() -> None:
    rng = np.random.default_rng(3)
    price = np.exp(np.cumsum(rng.normal(0, 0.01, (500, 2)), axis=0))
    targets = 0.3 + rng.normal(0, 0.01, (500, 2))
    wide = simulate(targets, price, price, Costs(), no_trade_band=0.02)
    narrow = simulate(targets, price, price, Costs())
    assert 0.0 < wide.turnover.sum() < 0.2 * narrow.turnover.sum()


def test_what_is_decided_at_a_close_fills_on_the_next_bar() -> None:
    shifted = decided_at_close(np.array([[0.1], [0.2], [0.3]]))
    assert np.isnan(shifted[0, 0])
    assert shifted[1:, 0].tolist() == [0.1, 0.2]
    late = decided_at_close(np.array([[0.1], [0.2], [0.3], [0.4]]), latency_bars=2)
    assert np.isnan(late[:3]).all()
    assert late[3, 0] == 0.1
    with pytest.raises(DataError, match="latency"):
        decided_at_close(np.zeros((3, 1)), latency_bars=-1)


def test_a_late_listing_waits_for_its_first_price() -> None:
    price = np.array([[1.0, NAN], [1.0, NAN], [1.0, 4.0], [1.0, 8.0]])
    result = simulate(np.full((4, 2), 0.5), price, price, NO_COSTS)
    assert result.weights[1].tolist() == [0.5, 0.0]
    assert result.weights[2].tolist() == [0.5, 0.5]
    assert result.equity[-1] == pytest.approx(1.5e6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.full((3, 1), np.inf)}, "infinite"),
        ({"targets": np.zeros((2, 1))}, "have one shape"),
        ({"fill": np.zeros((3, 1))}, "fill price is 0.0"),
        ({"no_trade_band": -0.1}, "band"),
        ({"start_equity": 0.0}, "start equity"),
        ({"funding_rate": np.full((3, 1), NAN)}, "funding rate is not finite"),
        ({"funding_rate": np.zeros((2, 1))}, "Funding rates"),
        ({"costs": Costs(impact_bps=1.0)}, "needs the liquidity"),
    ],
)
def test_broken_input_is_refused(change: dict[str, object], message: str) -> None:
    good = {"targets": np.zeros((3, 1)), "fill": np.ones((3, 1)), "mark": np.ones((3, 1)), "costs": NO_COSTS}
    with pytest.raises(DataError, match=message):
        simulate(**{**good, **change})
