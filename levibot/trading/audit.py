"""Whether a walk-forward backtest knows what it cannot know: checks and controls on the whole pipeline.

The cheap checks decide the first stretch again on less than there was: without the bars to come, without the
bars before the warm-up, at other costs. The controls give the pipeline labels or markets in which there is
nothing to find, over every stretch; what it still finds there is a fault or a drift, not a skill. What is
judged is what is left after the market's own return: who is long on average earns a drift without knowing
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from levibot.clock import Clock
from levibot.errors import DataError
from levibot.features.view import FeatureView
from levibot.learning.control_past import Relabelled, ShortMemory, nothing_happened, shuffled
from levibot.learning.past import ComputedPast, Past
from levibot.learning.walk_forward import Split
from levibot.market.bars import FloatArray, Panel, to_datetime64
from levibot.trading.alpha import alpha_z
from levibot.trading.backtest import decided_at_close, simulate
from levibot.trading.control_markets import block_permuted, time_reversed
from levibot.trading.costs import NO_COSTS, Costs
from levibot.trading.metrics import daily_returns
from levibot.trading.trials import YARDSTICKS

# The net Sharpe ratio above which a report audits itself.
SUSPICIOUS_SHARPE = 2.0
FEWEST_DAYS = 30
# Targets, as fractions of equity: what a longer sum may round, and far below what a bar to come would change.
MOST_CHANGE = 1e-9
# One chance in a hundred on honest noise.
SIGNIFICANT = 2.33
COSTS_BPS = (0.0, 5.0, 10.0, 20.0, 30.0, 50.0)
LATENCIES_BARS = (0, 1, 2, 4, 8, 24)
N_SHUFFLES, N_PERMUTATIONS = 3, 2
_HOUR = np.timedelta64(1, "h")

# The targets (T, S) of a past, decided at each row's close over these stretches, NaN outside of them.
Decide = Callable[[Past, Sequence[Split]], FloatArray]
Say = Callable[[str], None]


def is_suspicious(net_sharpes: Mapping[str, float], n_days: int) -> bool:
    """Whether a strategy that is chosen from is too good to be believed unseen.

    Of fewer than 30 days no ratio is: its standard error is above 3, and noise alone is often beyond that.
    """
    chosen = (ratio for name, ratio in net_sharpes.items() if name not in YARDSTICKS)
    return n_days >= FEWEST_DAYS and any(ratio > SUSPICIOUS_SHARPE for ratio in chosen)


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. measured: figures by name. limit: of the first of them, None where it is
    only shown. holds: None where nothing is judged.
    """

    name: str
    done: str
    measured: dict[str, float]
    limit: float | None
    took_s: float

    @property
    def holds(self) -> bool | None:
        """Whether the first figure keeps the limit; one that is not defined does not."""
        if self.limit is None:
            return None
        return bool(next(iter(self.measured.values())) <= self.limit)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "done": self.done,
            "measured": {name: v if np.isfinite(v) else None for name, v in self.measured.items()},
            "limit": self.limit,
            "holds": self.holds,
            "took_s": round(self.took_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """All checks of one run. is_full: the controls were run too."""

    checks: tuple[Check, ...]
    is_full: bool

    @property
    def holds(self) -> bool:
        return all(check.holds is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "is_full": self.is_full,
            "took_s": round(sum(check.took_s for check in self.checks), 3),
            "checks": [check.to_json() for check in self.checks],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """What is audited. panel: with the bars that warm the features up. decide: gives the same targets again
    for the same past. costs, band: under which its account trades. seed: of shuffles and permutations.
    """

    panel: Panel
    view: FeatureView
    horizons_bars: tuple[int, ...]
    splits: tuple[Split, ...]
    decide: Decide
    costs: Costs
    band: float
    seed: int

    def past(self, panel: Panel) -> ComputedPast:
        return ComputedPast(panel, self.view, self.horizons_bars)

    def rows(self, splits: Sequence[Split]) -> slice:
        """The rows whose closes fall into the stretches."""
        instants = (splits[0].test_start, splits[-1].test_end)
        return slice(*(int(np.searchsorted(self.panel.closes_at, to_datetime64(at))) for at in instants))


def audit(pipeline: Pipeline, clock: Clock, *, is_full: bool = False, say: Say | None = None) -> Audit:
    """Run the cheap checks, and the controls as well where `is_full`.

    clock: of the machine, for what each check took. say: told the name of each check before it begins.
    Raises DataError where the first stretch has too few bars to be cut, and what `decide` raises.
    """
    questions = [*_cheap(pipeline), *(_controls(pipeline) if is_full else ())]
    checks = []
    for name, done, limit, ask in questions:
        if say is not None:
            say(name)
        started = clock.now()
        measured = ask()
        checks.append(Check(name, done, measured, limit, (clock.now() - started).total_seconds()))
    return Audit(tuple(checks), is_full)


_Question = tuple[str, str, float | None, Callable[[], dict[str, float]]]


def _cheap(pipeline: Pipeline) -> Iterator[_Question]:
    first = pipeline.splits[:1]
    rows = pipeline.rows(first)
    n_rows = rows.stop - rows.start
    if n_rows < 3:
        raise DataError(f"The first stretch has {n_rows} bars: an audit needs at least 3 to cut it.")
    whole = pipeline.past(pipeline.panel)
    decided = pipeline.decide(whole, first)
    n_left_out = rows.start - pipeline.view.warmup_bars
    cuts = [rows.start + n_rows // 3, rows.start + 2 * n_rows // 3]

    def prefix() -> dict[str, float]:
        changes = []
        for cut in cuts:
            early = pipeline.decide(pipeline.past(pipeline.panel.rows(slice(0, cut))), first)
            changes.append(_largest_change(decided[rows.start : cut], early[rows.start : cut]))
        return {"largest change of a target": max(changes)}

    def warm_up() -> dict[str, float]:
        again = pipeline.decide(ShortMemory(whole, pipeline.view), first)
        return {
            "largest change of a target": _largest_change(decided[rows], again[rows]),
            "bars left out": float(max(0, n_left_out)),
        }

    def dearer() -> dict[str, float]:
        panel, ordered = pipeline.panel.rows(rows), decided_at_close(decided)[rows]
        equity = [
            simulate(ordered, panel.open, panel.close, pipeline.costs.with_total(bps)).equity
            for bps in COSTS_BPS
        ]
        gains = [float((dear / cheap - 1.0).max()) for cheap, dear in pairwise(equity)]
        return {"largest gain from a higher cost": max(gains)}

    def later() -> dict[str, float]:
        panel = pipeline.panel.rows(rows)
        grown = {}
        for late in LATENCIES_BARS:
            ordered = decided_at_close(decided, late)[rows]
            account = simulate(ordered, panel.open, panel.close, pipeline.costs, no_trade_band=pipeline.band)
            grown[f"growth {late} bars later"] = float(account.equity[-1] / account.start_equity - 1.0)
        return grown

    yield "no bar to come", f"the market cut at {len(cuts)} instants of a stretch", MOST_CHANGE, prefix
    # Where every bar is within the warm-up, nothing is tried and nothing is judged.
    limit = MOST_CHANGE if n_left_out > 0 else None
    yield "warm-up", f"features without the bars before {pipeline.view.warmup_bars}", limit, warm_up
    yield "cost", f"{len(COSTS_BPS)} costs up to {COSTS_BPS[-1]:g} bps, no band, every bar", 1e-12, dearer
    yield "latency", "orders filled later", None, later


def _controls(pipeline: Pipeline) -> Iterator[_Question]:
    rows = pipeline.rows(pipeline.splits)
    whole = pipeline.past(pipeline.panel)
    market = _market(pipeline.panel.rows(rows))

    def earned(past: Past) -> FloatArray:
        return _gross(pipeline, past.panel, pipeline.decide(past, pipeline.splits), rows)

    def labels() -> dict[str, float]:
        nothing = earned(Relabelled(whole, nothing_happened))
        seeds = range(pipeline.seed, pipeline.seed + N_SHUFFLES)
        noise = np.mean([earned(Relabelled(whole, shuffled(seed))) for seed in seeds], axis=0)
        return {
            "z of shuffled labels": alpha_z(noise - nothing, market),
            "z of the labels": alpha_z(earned(whole) - nothing, market),
        }

    def permuted() -> dict[str, float]:
        block_bars = max(1, int(_HOUR / np.timedelta64(pipeline.panel.interval)))
        found = []
        for number in range(N_PERMUTATIONS):
            rng = np.random.default_rng([pipeline.seed, number])
            panel = block_permuted(pipeline.panel, block_bars, rng)
            found.append(alpha_z(earned(pipeline.past(panel)), _market(panel.rows(rows))))
        return {"pooled z": float(np.sum(found) / np.sqrt(len(found)))}

    def turned() -> dict[str, float]:
        panel = time_reversed(pipeline.panel)
        return {"z": alpha_z(earned(pipeline.past(panel)), _market(panel.rows(rows)))}

    yield "shuffled labels", f"{N_SHUFFLES} orders, beside labels that are all zero", SIGNIFICANT, labels
    yield "permuted hours", f"{N_PERMUTATIONS} orders of the market's hours", SIGNIFICANT, permuted
    yield "reversed time", "the market from its end to its beginning", None, turned


def _largest_change(one: FloatArray, other: FloatArray) -> float:
    """Infinite where one has a value and the other has none; NaN, which keeps no limit, without any value."""
    known = np.isfinite(one)
    if not np.array_equal(known, np.isfinite(other)):
        return float("inf")
    return float(np.abs(one - other)[known].max()) if known.any() else float("nan")


def _gross(pipeline: Pipeline, panel: Panel, decided: FloatArray, rows: slice) -> FloatArray:
    """Daily returns (D,) before costs of what was decided on this market."""
    test, ordered = panel.rows(rows), decided_at_close(decided)[rows]
    account = simulate(ordered, test.open, test.close, NO_COSTS, no_trade_band=pipeline.band)
    return daily_returns(test.closes_at, account.equity, account.start_equity)


def _market(test: Panel) -> FloatArray:
    """Daily returns (D,) of equal parts of all that trades, restored on every bar for nothing."""
    there = ~np.isnan(test.open)
    shares = np.where(there, 1.0 / np.maximum(there.sum(axis=1, keepdims=True), 1), np.nan)
    account = simulate(shares, test.open, test.close, NO_COSTS)
    return daily_returns(test.closes_at, account.equity, account.start_equity)
