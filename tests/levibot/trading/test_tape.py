"""What an account of a report pays beside fees: delay, impact, funding, limits; and what it may hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.learning.members import on_sides
from levibot.market.bars import FloatArray, Panel
from levibot.market.side_series import FUNDING_RATE, SideSeries
from levibot.trading.conditions import CONDITIONS, Conditions
from levibot.trading.costs import Costs
from levibot.trading.funding import funding_of_bars, told
from levibot.trading.performance import holding, performance
from levibot.trading.tape import Tape
from levibot.trading.terms import Terms

HOUR = timedelta(hours=1)
N = 24 * 60


@pytest.fixture(scope="module")
def panel() -> Panel:
    rng = np.random.default_rng(5)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0004, 0.01, (N, 2)), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    ts = np.datetime64("2023-12-01", "us") + np.arange(N) * np.timedelta64(HOUR)
    return Panel(("A", "B"), HOUR, ts, opened, close, opened, close, np.full(close.shape, 1e4))


@pytest.fixture(scope="module")
def positions(panel: Panel) -> FloatArray:
    rng = np.random.default_rng(6)
    return np.repeat(rng.uniform(-0.5, 0.5, (N // 12, 2)), 12, axis=0)


def final(
    panel: Panel, positions: FloatArray, conditions: Conditions, rates: FloatArray | None = None
) -> float:
    tape = Tape.of(panel, slice(24, None), conditions, rates)
    return float(tape.trade(tape.ordered(positions), 0.0).equity[-1] / conditions.capital)


def test_each_condition_is_charged(panel: Panel, positions: FloatArray) -> None:
    plain = final(panel, positions, CONDITIONS)
    rates = np.full(panel.open.shape, 1e-5)
    impact = replace(CONDITIONS, costs=replace(CONDITIONS.costs, impact_bps=10.0))
    assert final(panel, positions, impact) < plain
    assert final(panel, positions, replace(impact, capital=1e8)) < final(panel, positions, impact)
    assert final(panel, positions, replace(CONDITIONS, latency_bars=5)) == pytest.approx(
        final(panel, np.roll(positions, 5, axis=0), CONDITIONS), rel=1e-12
    )
    long = np.abs(positions)
    every, shorts, nobody = (
        final(panel, long, replace(CONDITIONS, terms=Terms(funded=who)), rates)
        for who in ("all", "shorts", "none")
    )
    assert every < shorts == nobody
    assert final(panel, -long, replace(CONDITIONS, terms=Terms(funded="shorts")), rates) > final(
        panel, -long, CONDITIONS, rates
    )
    low = replace(CONDITIONS, terms=Terms("none", max_leverage=0.1))
    tape = Tape.of(panel, slice(24, None), low)
    assert np.abs(tape.trade(tape.ordered(positions), 0.0).weights).sum(axis=1).max() < 0.15


def test_a_fixed_size_is_what_limits_and_impact_are_measured_by(panel: Panel) -> None:
    tape = Tape.of(
        panel, slice(None), Conditions(terms=Terms("none", max_notional=1_000.0), capital=10_000.0)
    )
    account = tape.trade(tape.ordered(np.full(panel.open.shape, 0.5)), 0.0)
    assert account.start_equity == 10_000.0
    assert account.weights[5].sum() == pytest.approx(0.2, rel=0.05)


def test_what_departs_from_the_default_is_named_and_nothing_else() -> None:
    assert Conditions(Costs(1.0, 0.0)).departures() == {}
    changed = Conditions(terms=Terms("all", max_leverage=2.0), latency_bars=1)
    assert changed.departures() == {"funded": "all", "max_leverage": 2.0, "latency_bars": 1}
    with pytest.raises(DataError, match="latency of -1"):
        Conditions(latency_bars=-1)


def test_holding_pays_what_is_charged(panel: Panel, positions: FloatArray) -> None:
    rates = np.full(panel.open.shape, 1e-4)
    free, paying = (
        holding(Tape.of(panel, slice(None), c, rates), seed=1)
        for c in (CONDITIONS, replace(CONDITIONS, terms=Terms(funded="all")))
    )
    assert paying.annual_return < free.annual_return
    tape = Tape.of(panel, slice(None), replace(CONDITIONS, terms=Terms(funded="all")), rates)
    found = performance(tape, tape.ordered(np.abs(positions)), 0.0, seed=1)
    # Funding is no cost of trading: it is in both.
    assert dict(found.cost_curve)[0.0] == found.sharpe_gross


def series(symbol: str, hours: list[float], values: list[float], panel: Panel) -> SideSeries:
    at = panel.ts[0] + np.array([round(h * 3_600_000) for h in hours]) * np.timedelta64(1, "ms")
    return SideSeries(FUNDING_RATE, symbol, at.astype("datetime64[us]"), np.array(values))


def test_a_payment_is_due_by_who_holds_when_it_is_made(panel: Panel) -> None:
    """At the close of row 7, stamped a few milliseconds late; not by who buys at that open."""
    paid = [
        series("A", [0.0, 8.0 + 2e-6, 16.0], [0.5, 0.25, 0.125], panel),
        series("B", [2.5], [1.0], panel),
    ]
    rates = funding_of_bars(panel, paid)
    rows, columns = np.nonzero(rates)
    # What was paid as the first bar opened was due before.
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(2, 1), (7, 0), (15, 0)]
    assert told(panel, rates)["A"] == {"bars": 2, "since": "2023-12-01"}
    with pytest.raises(DataError, match="no funding payment of B"):
        funding_of_bars(panel, paid[:1])


def test_sides_keep_what_may_be_held() -> None:
    wanted = np.array([[0.2, -0.1, np.nan], [-0.2, -0.3, 0.0], [0.1, 0.3, 0.0]])
    np.testing.assert_array_equal(on_sides(wanted, "long-short"), wanted)
    np.testing.assert_array_equal(on_sides(wanted, "long-flat"), np.maximum(wanted, 0.0))
    always = on_sides(wanted, "long-only")
    np.testing.assert_allclose(always[0], [1.0, 0.0, np.nan])
    np.testing.assert_allclose(always[1], 1.0 / 3.0)
    np.testing.assert_allclose(always[2], [0.25, 0.75, 0.0])
    with pytest.raises(DataError, match="sides is 'short'"):
        on_sides(wanted, "short")  # type: ignore[arg-type]
