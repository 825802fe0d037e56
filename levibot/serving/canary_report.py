"""How a canary does beside the champion, and which of its limits it breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from levibot.learning.evidence.sequential import confidence_sequence
from levibot.market.bars import FloatArray
from levibot.stores.canaries import (
    ArmSeries,
    BrokenLimit,
    CanaryAnswer,
    CanaryRun,
)
from levibot.stores.canary_setting import CanaryLimits
from levibot.stores.ticks import TickStore
from levibot.trading.backtest import START_EQUITY

# Errors and latency are of so many of the newest bars; below the others nothing is made of them.
NEWEST_BARS, FEWEST_FAILURES, FEWEST_LATENCIES = 100, 3, 20
LATENCY_QUANTILE = 0.95
# Bars whose net returns the test is made for, and before which it decides nothing: of hours a month, a week.
PLAN_BARS, FIRST_LOOK_BARS = 720, 168
# The same of closes that are a horizon apart.
PLAN_CLOSES, FIRST_LOOK_CLOSES = 90, 20
BPS = 1e4
Verdict = Literal["undecided", "canary_better", "champion_better"]


@dataclass(frozen=True, slots=True)
class Breach:
    """The limit that is broken, and the numbers that say so."""

    limit: BrokenLimit
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answers:
    """n: of the newest bars, at most NEWEST_BARS. error_share: not answered, or without a member that the
    champion has heard. latency_s: that 95 % of the answers took at most. NaN where there are none.
    """

    n: int
    n_failed: int
    n_timed: int
    error_share: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Canary less champion after n looks; low, high: bounds that hold over all looks together (95 %).

    champion, canary: of each alone. NaN without a look, the bounds infinite while nothing could be decided.
    """

    n: int
    champion: float
    canary: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class CanaryReport:
    """A canary at an instant. champion: the version that it was last held against.

    counts: bars by outcome since it began. pnl: arms' net return since then, and its mean difference a bar in
    bps of equity. drawdown: of the canary's account. priced_to: the newest bar that both are priced at.
    brier: 0 is best; canary less champion, so above 0 is worse.
    """

    run: CanaryRun
    champion: str | None
    counts: Mapping[str, int]
    answers: Answers
    pnl: Comparison
    drawdown: float
    priced_to: datetime | None
    brier: Comparison

    @property
    def verdict(self) -> Verdict:
        """Which arm certainly earns more a bar."""
        if self.pnl.low > 0.0:
            return "canary_better"
        return "champion_better" if self.pnl.high < 0.0 else "undecided"

    def breach(self) -> Breach | None:
        """The first limit that it breaks, if it breaks one."""
        limits = self.run.setting.limits
        broken = breach_of_answers(self.answers, limits)
        if broken is not None:
            return broken
        if self.drawdown > limits.drawdown:
            return Breach("drawdown", {"drawdown": self.drawdown, "limit": limits.drawdown})
        if self.pnl.high < -limits.worse_by_bps:
            return Breach("net_pnl", _numbers(self.pnl) | {"limit": -limits.worse_by_bps})
        if self.brier.low > 0.0:
            return Breach("calibration", _numbers(self.brier) | {"limit": 0.0})
        return None


def breach_of_answers(answers: Answers, limits: CanaryLimits) -> Breach | None:
    """Whether errors or latency break a limit: they are known at once, without any store."""
    if answers.n_failed >= FEWEST_FAILURES and answers.error_share > limits.error_share:
        numbers: dict[str, float] = {"n": answers.n, "n_failed": answers.n_failed}
        return Breach("errors", numbers | {"error_share": answers.error_share, "limit": limits.error_share})
    if answers.n_timed >= FEWEST_LATENCIES and answers.latency_s > limits.latency_s:
        return Breach(
            "latency", {"n": answers.n_timed, "latency_s": answers.latency_s, "limit": limits.latency_s}
        )
    return None


def answers_of(newest: Sequence[CanaryAnswer]) -> Answers:
    """What the newest bars, oldest first, come to."""
    newest = newest[-NEWEST_BARS:]
    failed = sum(one.outcome != "answered" for one in newest)
    took_s = [one.latency_s for one in newest if one.latency_s is not None]
    return Answers(
        len(newest),
        failed,
        len(took_s),
        failed / len(newest) if newest else float("nan"),
        float(np.quantile(took_s, LATENCY_QUANTILE)) if took_s else float("nan"),
    )


def pnl_of(equity: ArmSeries) -> Comparison:
    """Net returns of both arms on the bars that both are taken through; without any, all is unknown."""
    both = common_equity(equity)
    if both is None:
        return _compared(np.empty(0), np.empty(0), (np.nan, np.nan), PLAN_BARS, FIRST_LOOK_BARS, BPS)
    champion, canary = both
    alone = champion[-1] / START_EQUITY - 1.0, canary[-1] / START_EQUITY - 1.0
    return _compared(_returns(canary), _returns(champion), alone, PLAN_BARS, FIRST_LOOK_BARS, BPS)


def common_equity(equity: ArmSeries) -> tuple[FloatArray, FloatArray] | None:
    """Champion's and canary's equity, (T + 1,), first the one that they began with; None before a common bar.

    An arm that begins later has its first equity until then; what one is not taken through yet is left out.
    """
    common = np.flatnonzero(~np.isnan(equity.champion) & ~np.isnan(equity.canary))
    if not len(common):
        return None
    until = common[-1] + 1
    whole = [
        np.concatenate([[START_EQUITY], np.where(np.isnan(arm), START_EQUITY, arm)])
        for arm in (equity.champion[:until], equity.canary[:until])
    ]
    return whole[0], whole[1]


def priced_to(equity: ArmSeries) -> datetime | None:
    """The close of the newest bar that both arms are taken through."""
    both = common_equity(equity)
    return None if both is None else equity.at[len(both[0]) - 2]


def drawdown_of(equity: ArmSeries) -> float:
    """The largest loss of the canary's account from the highest equity before it, 0 to 1; 0 before a bar."""
    both = common_equity(equity)
    if both is None:
        return 0.0
    peak = np.maximum.accumulate(both[1])
    return float((1.0 - both[1] / peak).max())


def brier_of(losses: ArmSeries) -> Comparison:
    """Brier scores of both arms over closes a horizon apart."""
    alone = _mean(losses.champion), _mean(losses.canary)
    return _compared(losses.canary, losses.champion, alone, PLAN_CLOSES, FIRST_LOOK_CLOSES, 1.0)


async def read_report(ticks: TickStore, market_id: str, interval: timedelta) -> CanaryReport | None:
    """The canary that was set last, from the store alone; None where there never was one."""
    store = ticks.canaries
    run = await store.newest(market_id)
    if run is None:
        return None
    equity = await store.equity(market_id, run.setting)
    return CanaryReport(
        run=run,
        champion=await store.champion(market_id, run.setting),
        counts=await store.counts(market_id, run.setting),
        answers=answers_of(await store.answers(market_id, run.setting, NEWEST_BARS)),
        pnl=pnl_of(equity),
        drawdown=drawdown_of(equity),
        priced_to=priced_to(equity),
        brier=brier_of(await store.losses(market_id, run, interval)),
    )


def _returns(equity: FloatArray) -> FloatArray:
    """(T,) simple returns of (T + 1,); 0 of an account without equity, as in the shadow ledger."""
    before = equity[:-1]
    grown: FloatArray = np.divide(equity[1:], before, out=np.ones(len(before)), where=before > 0.0)
    return grown - 1.0


def _compared(
    canary: FloatArray,
    champion: FloatArray,
    alone: tuple[float, float],
    plan: int,
    first_look: int,
    unit: float,
) -> Comparison:
    """alone: of the champion and of the canary."""
    if not len(canary):
        unknown = float("nan")
        return Comparison(0, *alone, unknown, -np.inf, np.inf)
    found = confidence_sequence(canary, champion, plan_days=plan, first_look_days=first_look)
    mean, low, high = (float(values[-1]) * unit for values in (found.mean, found.low, found.high))
    return Comparison(len(canary), float(alone[0]), float(alone[1]), mean, low, high)


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _numbers(compared: Comparison) -> dict[str, float]:
    return {
        "n": compared.n,
        "champion": compared.champion,
        "canary": compared.canary,
        "difference": compared.difference,
        "low": compared.low,
        "high": compared.high,
    }
