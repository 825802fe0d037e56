"""The walk-forward report on simulated markets, whole and broken."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.features.views import CORE
from levibot.learning.models.lightgbm import LightGBMParameters
from levibot.learning.past import ComputedPast
from levibot.learning.training import SIGNAL, TrainingParameters
from levibot.learning.walk_forward import end_of_day, walk_forward
from levibot.learning.walk_forward_opinions import walk_forward_opinions
from levibot.market.bars import FIELDS, Bars, FloatArray, Panel
from levibot.market.parquet import ParquetSource
from levibot.market.simulator import SimulatedSource
from levibot.settings import DEFAULT_SYMBOLS, SourceName
from levibot.stores.frozen_history import FrozenHistories
from levibot.trading.conditions import Conditions
from levibot.trading.costs import Costs
from levibot.trading.performance import bought_once, rebalanced_daily
from levibot.trading.report import Report, run_backtest
from levibot.trading.terms import Terms
from tests.trial_books import new_book

HOUR = timedelta(hours=1)
QUICK = TrainingParameters(booster=LightGBMParameters(trees=10), n_models=1, n_folds=2)
SYMBOLS = ("BTCUSDT", "ETHUSDT")


def day(year: int, month: int = 1, day_of_month: int = 1) -> datetime:
    return datetime(year, month, day_of_month, tzinfo=UTC)


@dataclass(frozen=True)
class ThinnedSource:
    """A market with holes: some bars of another source are not there."""

    market: SimulatedSource
    listed: dict[str, datetime]
    outage: tuple[datetime, datetime]

    @property
    def name(self) -> SourceName:
        return self.market.name

    @property
    def interval(self) -> timedelta:
        return self.market.interval

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.market.symbols

    def extent(self) -> tuple[datetime, datetime | None]:
        return self.market.extent()

    def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
        whole = self.market.bars(symbol, max(start, self.listed.get(symbol, start)), end)
        before, after = whole.between(None, self.outage[0]), whole.between(self.outage[1], None)
        joined = {
            name: np.concatenate([getattr(before, name), getattr(after, name)]) for name in ("ts", *FIELDS)
        }
        return Bars(symbol, whole.interval, **joined)


def backtest(source: Any, symbols: tuple[str, ...] = SYMBOLS, **change: Any) -> Report:
    """From features that are computed and stored for it alone, where no histories are given."""
    if "histories" not in change:
        with tempfile.TemporaryDirectory() as folder:
            histories = FrozenHistories(Path(folder), say=pytest.fail)
            return backtest(source, symbols, **change, histories=histories)
    arguments: dict[str, Any] = {
        "train_start": day(2020),
        "test_start": day(2020, 7),
        "test_end": day(2020, 9),
        "seed": 1,
        "trials": new_book(),
        "refit": "monthly",
        "training": QUICK,
    }
    return run_backtest(source, symbols, **{**arguments, **change})


@pytest.fixture(scope="module")
def source() -> SimulatedSource:
    return SimulatedSource(SYMBOLS, HOUR, seed=5, edge=0.03)


@pytest.fixture(scope="module")
def report(source: SimulatedSource) -> Report:
    return backtest(source)


def test_the_json_has_what_the_outside_reads(report: Report) -> None:
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    for strategy in ("ensemble", "buy_and_hold", "equal_weight"):
        assert set(read[strategy]) == {
            "sharpe_net",
            "sharpe_gross",
            "sharpe_ci95",
            "max_drawdown",
            "turnover_per_day",
            "annual_return",
            "psr",
            "deflated_sharpe",
            "min_track_record_days",
            "sortino",
            "years",
            "regimes",
            "cost_curve",
            "capacity",
        }
        low, high = read[strategy]["sharpe_ci95"]
        assert low < read[strategy]["sharpe_net"] < high
        assert read[strategy]["sharpe_net"] < read[strategy]["sharpe_gross"]
        assert -1.0 <= read[strategy]["max_drawdown"] < 0.0
        curve = [point["sharpe_net"] for point in read[strategy]["cost_curve"]]
        assert curve == sorted(curve, reverse=True)
        assert curve[2] == pytest.approx(read[strategy]["sharpe_net"], abs=1e-12)
        assert [year["days"] for year in read[strategy]["years"].values()] == [62]
    assert [point["cost_bps"] for point in read["cost_curve"]] == [0, 5, 10, 15, 20, 30]
    assert read["period"]["days"] == 62
    assert read["period"]["test_end"] == "2020-08-31T00:00:00+00:00"
    assert read["period"]["fits"] == ["2020-07-01T00:00:00+00:00", "2020-08-01T00:00:00+00:00"]
    assert read["costs"]["total_bps"] == 10.0
    assert read["run"]["conditions"] == {}
    assert read["trials"]["overfitting"]["report"]["strategies"] == 7
    assert 0.0 <= read["trials"]["overfitting"]["ledger"]["probability"] <= 1.0
    assert len(read["allocation"]["votes"]) == 2
    # Sixty days vote for nothing else than the prior, and are too few to tell the router from it.
    assert read["vote"]["sharpe_net"] == read["fixed_weights"]["sharpe_net"]
    assert read["comparisons"]["router_against_fixed_weights"]["weeks"] == 0
    assert ["ensemble", "trend"] in [[p["first"], p["second"]] for p in read["comparisons"]["paired"]]
    assert set(read["calibration"]["probability_up"]) == {"lightgbm", "ensemble", "stacked"}
    assert read["run"]["source"] == "simulated"
    assert {"data_hash", "view", "view_version", "seed", "parameters", "versions"} <= set(read["run"])


def test_the_cost_curve_falls_and_holds_the_reported_figures(report: Report) -> None:
    curve = dict(report.cost_curve)
    assert list(curve.values()) == sorted(curve.values(), reverse=True)
    assert curve[10.0] == report.ensemble.sharpe_net
    assert curve[0.0] == report.ensemble.sharpe_gross


def test_the_same_run_gives_the_same_report(source: SimulatedSource, report: Report) -> None:
    assert backtest(source).to_json() == report.to_json()
    assert backtest(source, seed=2).ensemble.sharpe_net != report.ensemble.sharpe_net


def test_what_a_run_departs_in_is_charged_reported_and_another_trial(source: SimulatedSource) -> None:
    book = new_book()
    conditions = Conditions(
        Costs(impact_bps=10.0), Terms("none", max_leverage=0.2), latency_bars=3, capital=1e7
    )
    flat = replace(SIGNAL, sides="long-flat")
    read = backtest(source, trials=book, conditions=conditions, signal=flat).to_json()
    assert read["costs"]["impact_bps"] == 10.0
    departures = {"max_leverage": 0.2, "latency_bars": 3, "capital": 1e7}
    assert read["run"]["conditions"] == departures
    assert read["run"]["parameters"]["signal"]["sides"] == "long-flat"
    assert all(trial.parameters["conditions"] == departures for trial in book.journal.newest())
    with pytest.raises(DataError, match="no funding payment of BTCUSDT"):
        backtest(source, conditions=Conditions(terms=Terms("shorts")))


def test_progress_names_each_stretch(source: SimulatedSource) -> None:
    seen: list[str] = []
    backtest(source, progress=lambda done, total, what: seen.append(f"{done}/{total} {what}"))
    assert seen == ["1/2 traded 2020-07-01 to 2020-07-31", "2/2 traded 2020-08-01 to 2020-08-31"]


def test_one_symbol_is_a_market_too(source: SimulatedSource) -> None:
    read = backtest(source, ("BTCUSDT",)).to_json()
    assert read["ensemble"]["sharpe_net"] is not None
    assert read["buy_and_hold"]["annual_return"] == pytest.approx(
        read["equal_weight"]["annual_return"], rel=0.02
    )


def test_a_late_listing_and_an_outage_are_traded_around() -> None:
    market = SimulatedSource((*SYMBOLS, "SOLUSDT"), HOUR, seed=5, edge=0.03)
    outage = (day(2020, 7, 10), day(2020, 7, 13))
    thinned = ThinnedSource(market, {"SOLUSDT": day(2020, 8)}, outage)
    report = backtest(thinned, (*SYMBOLS, "SOLUSDT"))
    assert len(report.ensemble.daily_returns) == 62
    # Nothing is traded or marked while the market is out.
    assert report.equal_weight.daily_returns[10:12].tolist() == [0.0, 0.0]
    assert np.isfinite(report.ensemble.daily_returns).all()


def test_a_market_that_does_not_move_has_no_ratio() -> None:
    ts = np.datetime64("2020-01-01", "us") + np.arange(24 * 250) * np.timedelta64(HOUR)
    one = np.ones(len(ts))
    still = Bars("BTCUSDT", HOUR, ts, one, one, one, one, one)

    class Still(ThinnedSource):
        def bars(self, symbol: str, start: datetime, end: datetime) -> Bars:
            return still.between(start, end)

    source = Still(SimulatedSource(("BTCUSDT",), HOUR, 0, 0.0), {}, (day(2020), day(2020)))
    with pytest.raises(DataError, match="rows with a label"):
        backtest(source, ("BTCUSDT",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test_start": day(2020, 2), "test_end": day(2020, 4)},
            "needs at least .* bars before that; there are",
        ),
        ({"test_start": day(2020, 7), "test_end": day(2020, 6)}, "in this order"),
        ({"train_start": day(2020, 6, 29)}, "rows with a label"),
    ],
)
def test_a_history_too_short_is_refused_in_one_sentence(
    source: SimulatedSource, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        backtest(source, **change)


def test_a_test_period_without_bars_is_refused() -> None:
    market = SimulatedSource(SYMBOLS, HOUR, seed=5, edge=0.0)
    with pytest.raises(DataError, match="no bars from 2020-07-01 to 2020-08-31"):
        backtest(ThinnedSource(market, {}, (day(2020, 7), day(2021))))


def test_a_test_before_the_market_is_refused(source: SimulatedSource) -> None:
    with pytest.raises(
        DataError, match="begins on 2020-01-01, after the test, which is to end on 2018-12-31"
    ):
        backtest(source, train_start=day(2017), test_start=day(2018), test_end=day(2019))


def test_the_report_names_the_days_that_the_market_has(source: SimulatedSource) -> None:
    ended = ThinnedSource(source, {}, (day(2020, 8, 21), day(2021)))
    read = backtest(ended, train_start=day(2019), test_end=day(2020, 12)).to_json()["period"]
    assert (read["train_start"], read["test_end"]) == (day(2020).isoformat(), day(2020, 8, 20).isoformat())
    assert (read["days"], len(read["fits"])) == (51, 2)


def levels_by_hand(orders: FloatArray, panel: Panel, band: float) -> FloatArray:
    """Equity over its start at 10 bps a side in Python floats, with nothing of the market step."""
    cash, units, last = 1.0, [0.0] * len(panel.symbols), [1.0] * len(panel.symbols)
    levels = []
    for order, opens, closes in zip(orders.tolist(), panel.open.tolist(), panel.close.tolist(), strict=True):
        prices = [known if opened != opened else opened for opened, known in zip(opens, last, strict=True)]
        value = cash + sum(u * p for u, p in zip(units, prices, strict=True))
        trades = []
        for symbol, (target, opened) in enumerate(zip(order, opens, strict=True)):
            gap = target - units[symbol] * opened / value
            if abs(gap) > band:  # never with a NaN, of a target or of a price
                wanted = target - (band if gap > 0 else -band)
                trades.append((wanted * value / opened - units[symbol], symbol))
        for size, symbol in trades:
            paid = opens[symbol] * (1 + (2.5e-4 if size > 0 else -2.5e-4))
            cash -= size * paid + abs(size) * paid * 7.5e-4
            units[symbol] += size
        last = [known if closed != closed else closed for closed, known in zip(closes, last, strict=True)]
        levels.append(cash + sum(u * p for u, p in zip(units, last, strict=True)))
    return np.array(levels)


def test_the_report_is_what_its_targets_earn_when_filled_at_the_next_open(
    source: SimulatedSource, report: Report
) -> None:
    """Moved by one bar, once: not filled at the bar that decides them, and not a bar late."""
    panel = Panel.align({symbol: source.bars(symbol, day(2020), day(2020, 9)) for symbol in SYMBOLS})
    splits = walk_forward(day(2020), day(2020, 7), day(2020, 9), refit="monthly")
    past = ComputedPast(panel, CORE, SIGNAL.horizons_bars)
    opinions = walk_forward_opinions(past, splits, seed=1, training=QUICK)
    weights = report.allocation.of_rows(panel.closes_at, report.allocation.ensemble)
    targets = opinions.positions(weights)
    first = int(np.searchsorted(panel.ts, np.datetime64("2020-07-01")))
    test = panel.rows(slice(first, len(panel)))
    days = test.ts.astype("datetime64[D]")
    is_last = np.append(days[1:] != days[:-1], True)

    def worst_gap(bars_late: int) -> float:
        levels = levels_by_hand(np.roll(targets, bars_late, axis=0)[first:], test, SIGNAL.no_trade_band)
        ends = np.concatenate(([1.0], levels[is_last]))
        return float(np.abs(ends[1:] / ends[:-1] - 1.0 - report.ensemble.daily_returns).max())

    assert worst_gap(bars_late=1) < 1e-12
    assert worst_gap(bars_late=0) > 1e-6
    assert worst_gap(bars_late=2) > 1e-6


def test_the_drawdown_of_holding_is_measured_on_bars_as_that_of_the_others(source: SimulatedSource) -> None:
    report = backtest(source, ("BTCUSDT",))
    bars = source.bars("BTCUSDT", day(2020, 7), day(2020, 9))
    levels = bars.close / bars.open[0] / (1.00025 * 1.00075)
    lowest = np.min(levels / np.maximum(1.0, np.maximum.accumulate(levels)) - 1.0)
    assert report.buy_and_hold.max_drawdown == pytest.approx(lowest, rel=1e-12)


@pytest.fixture
def three_days() -> Panel:
    ts = np.datetime64("2020-01-01T22:00", "us") + np.arange(30) * np.timedelta64(HOUR)
    price = np.ones((30, 3))
    price[:1, 1] = np.nan
    price[:, 2] = np.nan
    price[26:, 2] = 1.0
    return Panel(("A", "B", "C"), HOUR, ts, price, price, price, price, price)


def test_holding_buys_each_symbol_once_on_its_first_bar(three_days: Panel) -> None:
    orders = bought_once(three_days)
    rows, columns = np.nonzero(~np.isnan(orders))
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 1), (26, 2)]
    assert np.nansum(orders) == 3.0


def test_equal_weights_are_restored_on_the_first_bar_of_each_day(three_days: Panel) -> None:
    orders = rebalanced_daily(three_days)
    rows = np.flatnonzero((~np.isnan(orders)).any(axis=1))
    assert rows.tolist() == [0, 2, 26]
    np.testing.assert_array_equal(orders[0], [1.0, np.nan, np.nan])
    np.testing.assert_array_equal(orders[2], [0.5, 0.5, np.nan])
    np.testing.assert_allclose(orders[26], [1 / 3, 1 / 3, 1 / 3])


@pytest.mark.market
@pytest.mark.skipif("LEVIBOT_MARKET_DATA" not in os.environ, reason="LEVIBOT_MARKET_DATA is not set")
def test_holding_the_recorded_market_earned_what_is_known(tmp_path: Path) -> None:
    """The recorded market's own page gives 1.93 for the six coins in equal weight over 2023 and 2024."""
    folder = Path(os.environ["LEVIBOT_MARKET_DATA"])
    source = ParquetSource(folder, DEFAULT_SYMBOLS, HOUR)
    report = run_backtest(
        source,
        DEFAULT_SYMBOLS,
        train_start=day(2022),
        test_start=day(2023),
        test_end=end_of_day(day(2024, 12, 31)),
        seed=0,
        trials=new_book(),
        histories=FrozenHistories(tmp_path, say=pytest.fail),
        refit="never",
        training=replace(QUICK, every_bars=24),
    )
    curve = [ratio for _, ratio in report.cost_curve]
    assert curve == sorted(curve, reverse=True)
    assert report.equal_weight.sharpe_net == pytest.approx(1.93, abs=0.03)
    assert report.buy_and_hold.sharpe_net == pytest.approx(1.93, abs=0.01)
    assert len(report.ensemble.daily_returns) == 731
