"""Whether anything is found where there is nothing: `python -m benchmarks.null_markets`.

The whole pipeline, from raw bars to the reported Sharpe ratio: four kinds of models, the ensemble whose
weights follow them and the router, without costs, on simulated markets. On martingales the pooled ratio must
not be told from zero; on the same markets with an edge in them it must be found.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from benchmarks.comparison import Result, arguments, holds, report, versions
from levibot.clock import SystemClock
from levibot.launch.commit import current_commit
from levibot.learning.evidence.book import TrialBook
from levibot.market.bars import FloatArray
from levibot.market.simulator import SimulatedSource
from levibot.stores.frozen_history import FrozenHistories
from levibot.stores.trial_journal import TrialJournal
from levibot.trading.conditions import Conditions
from levibot.trading.costs import NO_COSTS
from levibot.trading.metrics import DAYS_PER_YEAR, sharpe
from levibot.trading.report import run_backtest

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
HOUR = timedelta(hours=1)
N_NULL, N_PLANTED, N_QUICK = 20, 5, 1
EDGE = 0.1
TRAIN_START = datetime(2020, 1, 1, tzinfo=UTC)
TEST_START = datetime(2020, 10, 1, tzinfo=UTC)
TEST_END = datetime(2021, 10, 1, tzinfo=UTC)
TEST_END_QUICK = datetime(2021, 1, 1, tzinfo=UTC)
# Two-sided, 95 %.
SIGNIFICANT = 1.96


def earned_by(seed: int, edge: float, test_end: datetime, folder: Path) -> Mapping[str, FloatArray]:
    """The daily returns of each strategy on one market; with its four kinds of models, as by default."""
    result = run_backtest(
        SimulatedSource(SYMBOLS, HOUR, seed, edge),
        SYMBOLS,
        train_start=TRAIN_START,
        test_start=TEST_START,
        test_end=test_end,
        seed=seed,
        trials=TrialBook(
            TrialJournal(folder / "trials.sqlite"), f"simulated-{seed}-{edge}", SystemClock(), kind="search"
        ),
        histories=FrozenHistories(folder / "histories", say=_say),
        conditions=Conditions(NO_COSTS),
    )
    return {
        name: own.daily_returns for name, own in result.strategies.items() if not np.isnan(own.sharpe_net)
    }


def pooled(markets: Sequence[FloatArray]) -> dict[str, float]:
    """The Sharpe ratio of all markets' days, each market scaled to one volatility, with its 95 % interval.

    z: over its standard error. The mean over the markets and its own error stand beside it.
    """
    days = np.concatenate([returns / returns.std() for returns in markets])
    ratio, error = sharpe(days), float(np.sqrt(DAYS_PER_YEAR / len(days)))
    each = [sharpe(returns) for returns in markets]
    return {
        "sharpe": ratio,
        "low": ratio - SIGNIFICANT * error,
        "high": ratio + SIGNIFICANT * error,
        "z": ratio / error,
        "mean": mean(each),
        "standard_error_of_mean": stdev(each) / len(each) ** 0.5 if len(each) > 1 else float("nan"),
        "days": float(len(days)),
    }


def main() -> None:
    wanted = arguments("what the whole pipeline finds on martingales, and on markets with an edge")
    load = os.getloadavg()[0]
    test_end = TEST_END_QUICK if wanted.quick else TEST_END
    plan = {"null": (0.0, N_QUICK if wanted.quick else N_NULL)}
    plan["planted"] = (EDGE, N_QUICK if wanted.quick else N_PLANTED)
    ours: dict[str, float] = {}
    for market, (edge, n_seeds) in plan.items():
        by_strategy: dict[str, list[FloatArray]] = {}
        for seed in range(n_seeds):
            with tempfile.TemporaryDirectory() as folder:
                earned = earned_by(seed, edge, test_end, Path(folder))
            for name, returns in earned.items():
                by_strategy.setdefault(name, []).append(returns)
            said = "  ".join(f"{name} {sharpe(returns):.2f}" for name, returns in earned.items())
            _say(f"{market} {seed}: {said}")
        for name, markets in by_strategy.items():
            ours |= {f"{market}_{name}_{what}": value for what, value in pooled(markets).items()}
    goal: dict[str, tuple[str, float]] = {
        "null_ensemble_z": ("<=", SIGNIFICANT),
        "null_router_z": ("<=", SIGNIFICANT),
        "planted_ensemble_z": (">=", SIGNIFICANT),
        "planted_router_z": (">=", SIGNIFICANT),
    }
    report(
        Result(
            name="null_markets",
            ours=ours,
            reference={"what": "a market without an edge, where every ratio is zero in the long run"},
            ratio={},
            goal=goal,
            holds=all(holds(ours[metric], *limit) for metric, limit in goal.items()),
            repeats=plan["null"][1],
            load_average=load,
            versions=versions(("lightgbm", "xgboost-cpu", "torch", "numpy")),
            git=current_commit() or "",
            notes={"symbols": len(SYMBOLS), "edge": EDGE, "planted": plan["planted"][1]},
        ),
        as_json=wanted.json,
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
