"""What is made of a canary's numbers, and which of them take it back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from levibot.market.bars import FloatArray
from levibot.serving.canary_report import (
    FIRST_LOOK_BARS,
    FIRST_LOOK_CLOSES,
    Breach,
    CanaryReport,
    answers_of,
    breach_of_answers,
    brier_of,
    drawdown_of,
    pnl_of,
    priced_to,
)
from levibot.stores.canaries import ArmSeries, CanaryAnswer, CanaryRun
from levibot.stores.canary_setting import CanaryLimits, CanarySetting
from levibot.trading.backtest import START_EQUITY

AT = datetime(2022, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = CanaryLimits()
NO_BARS = ArmSeries([], np.empty(0), np.empty(0))


def series(champion: FloatArray, canary: FloatArray) -> ArmSeries:
    return ArmSeries([AT + n * HOUR for n in range(len(champion))], champion, canary)


def answered(*latencies_s: float | None) -> list[CanaryAnswer]:
    return [
        CanaryAnswer(AT + n * HOUR, "failed" if took is None else "answered", "", took)
        for n, took in enumerate(latencies_s)
    ]


def report(equity: ArmSeries = NO_BARS, losses: ArmSeries = NO_BARS) -> CanaryReport:
    run = CanaryRun(CanarySetting("v1.1.0", 0.1), AT)
    return CanaryReport(
        *(run, "v1.0.0", {}, answers_of([]), pnl_of(equity), drawdown_of(equity)),
        priced_to(equity),
        brier_of(losses),
    )


def equity_of(returns: FloatArray) -> FloatArray:
    return START_EQUITY * np.cumprod(1.0 + returns)


@pytest.mark.parametrize(
    ("latencies_s", "limit"),
    [
        # Two failures are no more than an accident, the third is.
        ([None, None], None),
        ([None, None, None], "errors"),
        ([0.1] * 27 + [None] * 3, None),
        ([0.1] * 26 + [None] * 3, "errors"),
        # Those of long ago are forgotten.
        ([None] * 30 + [0.1] * 100, None),
        ([1.5] * 19, None),
        ([1.5] * 20, "latency"),
        ([0.1] * 96 + [1.5] * 4, None),
        ([0.1] * 90 + [1.5] * 10, "latency"),
    ],
)
def test_errors_and_latency_are_of_the_newest_bars(
    latencies_s: list[float | None], limit: str | None
) -> None:
    breach = breach_of_answers(answers_of(answered(*latencies_s)), LIMITS)
    assert (None if breach is None else breach.limit) == limit


def test_a_member_that_is_absent_counts_as_an_error() -> None:
    answers = [CanaryAnswer(AT, "incomplete", "lstm: deadline_passed", 0.1)] * 3
    assert breach_of_answers(answers_of(answers), LIMITS) == Breach(
        "errors", {"n": 3, "n_failed": 3, "error_share": 1.0, "limit": 0.1}
    )


def test_nothing_is_known_before_a_bar() -> None:
    empty = report()
    assert (empty.pnl.n, empty.brier.n, empty.drawdown, empty.priced_to) == (0, 0, 0.0, None)
    assert np.isnan([empty.pnl.canary, empty.pnl.difference, empty.brier.champion]).all()
    assert (empty.verdict, empty.breach()) == ("undecided", None)


def test_an_arm_that_begins_later_stands_still_until_then_and_bars_of_one_arm_are_not_compared() -> None:
    unknown = np.nan
    equity = series(
        START_EQUITY * np.array([1.01, 1.02, 1.03, 1.04]),
        START_EQUITY * np.array([unknown, 0.99, 0.98, unknown]),
    )
    pnl = pnl_of(equity)
    assert (pnl.n, pnl.champion, pnl.canary) == (3, pytest.approx(0.03), pytest.approx(-0.02))
    assert drawdown_of(equity) == pytest.approx(0.02)
    assert priced_to(equity) == AT + 2 * HOUR
    steps = [(0.0 - 0.01), (-0.01 - (1.02 / 1.01 - 1)), (0.98 / 0.99 - 1) - (1.03 / 1.02 - 1)]
    assert pnl.difference == pytest.approx(np.mean(steps) * 1e4)


def test_an_account_without_equity_earns_nothing_more() -> None:
    gone = series(np.full(3, START_EQUITY), START_EQUITY * np.array([0.5, 0.0, 0.0]))
    assert pnl_of(gone).difference == pytest.approx(-1.5 / 3 * 1e4)
    breach = report(gone).breach()
    assert breach == Breach("drawdown", {"drawdown": 1.0, "limit": 0.1})


def test_one_that_certainly_earns_less_is_taken_back_and_a_margin_allows_for_it() -> None:
    rng = np.random.default_rng(3)
    both = rng.normal(0.0, 0.001, 1_000)
    champion, canary = equity_of(both), equity_of(both - 0.00006 + rng.normal(0.0, 0.0002, 1_000))
    early = report(series(champion[: FIRST_LOOK_BARS - 1], canary[: FIRST_LOOK_BARS - 1]))
    assert (early.verdict, early.breach()) == ("undecided", None)
    late = report(series(champion, canary))
    breach = late.breach()
    assert late.verdict == "champion_better"
    assert breach is not None
    assert breach.limit == "net_pnl"
    assert breach.numbers["high"] < 0.0
    assert breach.numbers["difference"] == pytest.approx(-0.6, abs=0.1)
    allowed = CanaryRun(CanarySetting("v1.1.0", 0.1, limits=CanaryLimits(worse_by_bps=2.0)), AT)
    assert (
        CanaryReport(
            *(allowed, None, {}, late.answers, late.pnl, late.drawdown, late.priced_to, late.brier)
        ).breach()
        is None
    )
    turned = report(series(canary, champion))
    assert (turned.verdict, turned.breach()) == ("canary_better", None)


def test_one_that_is_certainly_worse_calibrated_is_taken_back() -> None:
    rng = np.random.default_rng(4)
    champion = rng.uniform(0.2, 0.3, 60)
    canary = champion + rng.normal(0.02, 0.01, 60)
    early = series(champion[: FIRST_LOOK_CLOSES - 1], canary[: FIRST_LOOK_CLOSES - 1])
    assert report(losses=early).breach() is None
    breach = report(losses=series(champion, canary)).breach()
    assert breach is not None
    assert (breach.limit, breach.numbers["n"]) == ("calibration", 60)
    assert breach.numbers["low"] > 0.0
    assert report(losses=series(canary, champion)).breach() is None


def test_arms_that_are_alike_are_taken_back_no_oftener_than_stated() -> None:
    rng = np.random.default_rng(5)
    n_runs, n_broken = 200, 0
    for _ in range(n_runs):
        champion, canary = (equity_of(rng.standard_t(4, 1_000) * 0.0005) for _ in range(2))
        looks = range(FIRST_LOOK_BARS, 1_000, 24)
        n_broken += any(pnl_of(series(champion[:look], canary[:look])).high < 0.0 for look in looks)
    # One side of 5 %, three standard errors above it.
    assert n_broken / n_runs <= 0.025 + 3.0 * (0.025 * 0.975 / n_runs) ** 0.5
