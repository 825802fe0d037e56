"""A walk through quarters that no choice has seen; every account that it comes to is counted.

A policy is trained on two years, its checkpoint is chosen on the quarter after them, and it trades the next
one. Then all of it moves on by a quarter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from levibot.clock import SystemClock
from levibot.errors import DataError
from levibot.learning.evidence.book import Scored, TrialBook
from levibot.learning.walk_forward import Split, end_of_day, months_later, walk_forward
from levibot.market.bars import FloatArray
from levibot.settings import Settings
from levibot.trading.metrics import sharpe, sharpe_interval
from rl.checkpoints import Checkpoints, module_of
from rl.exam import Exam, decisions_of, sit
from rl.game import Game
from rl.scaling import Float32Array
from rl.traded_market import TradedMarket, as_instant
from rl.training import best, description_of, scored, task_of, train

TAUGHT = timedelta(days=730)
# Before the first test, so that its quarter of choice is cut like the tests are.
BEFORE = timedelta(days=3 * 365)
LONG = 2
log = structlog.get_logger()


def quarters(first_test: str, last_test: str) -> list[tuple[Split, Split]]:
    """For each test its quarter of choice and itself. Raises DataError where no whole pair fits in."""
    begin, end = as_instant(first_test), end_of_day(as_instant(last_test))
    if begin.day != 1 or end.day != 1:
        raise DataError(f"{first_test} to {last_test} are no whole quarters: begin and end with a month.")
    chosen_from = months_later(begin, -3)
    splits = walk_forward(chosen_from - BEFORE, chosen_from, end, rolling=TAUGHT)
    return list(pairwise(splits))


@dataclass(frozen=True, slots=True, eq=False)
class Quarter:
    """What a policy and holding earned on a quarter that chose nothing, and what was counted for it."""

    exam: Exam
    held: Exam
    counted: Scored


def walk(
    settings: Settings,
    symbols: Sequence[str],
    tests: Sequence[tuple[Split, Split]],
    game: Game,
    book: TrialBook,
    folder: Path,
    *,
    seed: int,
    n_turns: int,
    every: int,
    n_runners: int,
) -> list[Quarter]:
    """Train, choose and trade each test quarter. What a kill left behind goes on."""
    walked = []
    for choice, test in tests:
        started_at = SystemClock().now()
        there = folder / f"{test.test_start:%Y-%m-%d}" / f"seed-{seed}"
        window = (choice.train_start, choice.test_start, choice.test_end)
        task = task_of(settings, symbols, window, game)
        train(
            task,
            there,
            book,
            seed=seed,
            n_turns=n_turns,
            every=every,
            n_runners=n_runners,
            resume=there.exists(),
        )
        turn = best(there)
        if turn is None:
            raise DataError(f"{there} has no checkpoint that was judged.")
        module = module_of(Checkpoints(there / "checkpoints").place(turn))
        unseen = TradedMarket.load(
            *(settings, symbols, test.test_start, test.last_day), scaling=task.make().scaling
        )
        exam, held = sit(decisions_of(module, game), unseen, game), sit(_hold(game), unseen, game)
        parameters = description_of(task, seed) | {"turn": turn, "role": "traded"}
        counted = scored(exam, unseen, started_at, seed, parameters)
        # Counted before it is told: a walk that is given up after a look at its first quarters counts too.
        book.record(counted)
        walked.append(Quarter(exam, held, counted))
        log.info(
            "quarter",
            trained=f"{choice.train_start:%Y-%m-%d} to {choice.test_start:%Y-%m-%d}",
            traded=f"{test.test_start:%Y-%m-%d} to {test.last_day:%Y-%m-%d}",
            seed=seed,
            turn=turn,
            net_sharpe=exam.net_sharpe,
            held=held.net_sharpe,
        )
    return walked


def _hold(game: Game) -> Any:
    def decide(seen: Float32Array) -> npt.NDArray[Any]:
        if game.actions == "discrete":
            return np.full(len(seen), LONG)
        return np.ones((len(seen), 1), np.float32)

    return decide


def summary(walks: Mapping[int, Sequence[Quarter]], book: TrialBook) -> dict[str, Any]:
    """Over all quarters of each seed's walk, and over the seeds: as JSON values. Each account is counted."""
    nets = [np.concatenate([quarter.exam.daily_net for quarter in walked]) for walked in walks.values()]
    grosses = [np.concatenate([quarter.exam.daily_gross for quarter in walked]) for walked in walks.values()]
    first, *_ = walks.values()
    # All seeds at once, a share each: what somebody who chooses none of them would have.
    shared: FloatArray = np.mean(nets, axis=0)
    holding = np.concatenate([quarter.held.daily_net for quarter in first])
    for (seed, walked), net, gross in zip(walks.items(), nets, grosses, strict=True):
        book.record(_whole(walked, net, gross, {"role": "walk"}, seed))
    seeds = list(walks)
    book.record(_whole(first, shared, np.mean(grosses, axis=0), {"role": "all_seeds", "seeds": seeds}))
    free = np.concatenate([quarter.held.daily_gross for quarter in first])
    book.record(_whole(first, holding, free, {"role": "buy_and_hold"}), is_yardstick=True)
    ratios = [sharpe(net) for net in nets]
    return {
        "net_sharpe_of_seeds": ratios,
        "mean": mean(ratios),
        "spread": stdev(ratios) if len(ratios) > 1 else None,
        "gross_sharpe_of_seeds": [sharpe(gross) for gross in grosses],
        "held_share_of_seeds": [
            mean(quarter.exam.held_share for quarter in walked) for walked in walks.values()
        ],
        "all_seeds": _told(shared),
        "buy_and_hold": _told(holding),
        "gain_over_holding": _ratio(shared - holding),
        "days": len(holding),
    }


def _whole(
    walked: Sequence[Quarter],
    net: FloatArray,
    gross: FloatArray,
    parameters: Mapping[str, Any],
    seed: int | None = None,
) -> Scored:
    """One account over all quarters; its data are those of the quarters, one after the other."""
    quarters_of = [quarter.counted for quarter in walked]
    return replace(
        quarters_of[0],
        data_hash=sha256("".join(of.data_hash for of in quarters_of).encode()).hexdigest(),
        seed=quarters_of[0].seed if seed is None else seed,
        parameters={**parameters, "quarters": [dict(of.parameters) for of in quarters_of]},
        end=quarters_of[-1].end,
        net_sharpe=sharpe(net),
        gross_sharpe=sharpe(gross),
        daily_returns=net,
    )


def _told(daily: FloatArray) -> dict[str, Any]:
    return _ratio(daily) | {"net_return": float(np.prod(1.0 + daily) - 1.0)}


def _ratio(daily: FloatArray) -> dict[str, Any]:
    interval = sharpe_interval(daily, seed=0)
    return {"net_sharpe": sharpe(daily), "interval": [interval.low, interval.high]}
