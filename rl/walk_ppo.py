"""Trade quarters that no choice has seen: `ray job submit --working-dir . -- python -m rl.walk_ppo`.

A policy is trained on two years, its checkpoint is chosen on the quarter after them, and it trades the next
one. Then all of it moves on by a quarter. Every seed is a walk of its own; none is chosen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import ray
import structlog
import typer
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModule

from levibot.errors import DataError, LeviBotError, UsageError
from levibot.learning.evidence.book import TrialBook
from levibot.learning.walk_forward import Split, end_of_day, months_later, walk_forward
from levibot.market.bars import FloatArray
from levibot.settings import Settings
from levibot.telemetry.logging import configure_logging
from levibot.trading.metrics import sharpe, sharpe_interval
from rl.checkpoints import Checkpoints
from rl.exam import Exam, decisions_of, sit
from rl.game import Game
from rl.scaling import Float32Array
from rl.traded_market import TradedMarket, as_instant
from rl.train_ppo import TRAININGS, best, book_of, game_of, task_of, train

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
) -> tuple[list[Exam], list[Exam]]:
    """The exam of each test quarter, and that of holding. What a kill left behind goes on."""
    exams, held = [], []
    for choice, test in tests:
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
        exams.append(sit(decisions_of(module, game), unseen, game))
        held.append(sit(_hold(game), unseen, game))
        log.info(
            "quarter",
            trained=f"{choice.train_start:%Y-%m-%d} to {choice.test_start:%Y-%m-%d}",
            traded=f"{test.test_start:%Y-%m-%d} to {test.last_day:%Y-%m-%d}",
            seed=seed,
            turn=turn,
            net_sharpe=exams[-1].net_sharpe,
            held=held[-1].net_sharpe,
        )
    return exams, held


def module_of(checkpoint: Path) -> Any:
    """The policy of a checkpoint of one's own: it holds pickles."""
    there = checkpoint / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPONENT_RL_MODULE
    return RLModule.from_checkpoint(str((there / DEFAULT_MODULE_ID).absolute()))


def _hold(game: Game) -> Any:
    def decide(seen: Float32Array) -> npt.NDArray[Any]:
        if game.actions == "discrete":
            return np.full(len(seen), LONG)
        return np.ones((len(seen), 1), np.float32)

    return decide


def summary(walks: Sequence[Sequence[Exam]], held: Sequence[Exam]) -> dict[str, Any]:
    """Over all quarters of a walk, and over the walks: as JSON values."""
    policies = [np.concatenate([exam.daily_net for exam in walked]) for walked in walks]
    gross = [np.concatenate([exam.daily_gross for exam in walked]) for walked in walks]
    net = [sharpe(daily) for daily in policies]
    # All seeds at once, a share each: what somebody who chooses none of them would have.
    shared: FloatArray = np.mean(policies, axis=0)
    holding = np.concatenate([exam.daily_net for exam in held])
    return {
        "net_sharpe_of_seeds": net,
        "mean": mean(net),
        "spread": stdev(net) if len(net) > 1 else None,
        "gross_sharpe_of_seeds": [sharpe(daily) for daily in gross],
        "held_share_of_seeds": [mean(exam.held_share for exam in walked) for walked in walks],
        "all_seeds": _told(shared),
        "buy_and_hold": _told(holding),
        "gain_over_holding": _ratio(shared - holding),
        "days": len(holding),
    }


def _told(daily: FloatArray) -> dict[str, Any]:
    return _ratio(daily) | {"net_return": float(np.prod(1.0 + daily) - 1.0)}


def _ratio(daily: FloatArray) -> dict[str, Any]:
    interval = sharpe_interval(daily, seed=0)
    return {"net_sharpe": sharpe(daily), "interval": [interval.low, interval.high]}


def main(
    first_test: Annotated[str, typer.Option(help="first day of the first test quarter")] = "2021-07-01",
    last_test: Annotated[str, typer.Option(help="last day of the last one")] = "2022-12-31",
    name: Annotated[str, typer.Option(help="of the walk, a folder of the state folder")] = "walk",
    symbols: Annotated[str, typer.Option(help="with commas between (default: all of the market)")] = "",
    actions: Annotated[str, typer.Option(help="discrete or continuous")] = "discrete",
    reward: Annotated[str, typer.Option(help="log_return or differential_sharpe")] = "log_return",
    drawdown_penalty: Annotated[float, typer.Option(min=0.0)] = 0.0,
    seeds: Annotated[int, typer.Option(min=1, help="how many walks, from the market's seed on")] = 3,
    turns: Annotated[int, typer.Option(min=1, help="of playing and learning, for each quarter")] = 100,
    every: Annotated[int, typer.Option(min=1, help="turns from checkpoint to checkpoint")] = 10,
    num_env_runners: Annotated[int, typer.Option(min=0, help="actors that play; 0 plays here")] = 0,
) -> None:
    """Train, choose and trade, a quarter at a time; prints what it earned as JSON."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "walk_ppo")
        game = game_of(actions, reward, drawdown_penalty)
        tests = quarters(first_test, last_test)
        names = tuple(symbols.split(",")) if symbols else settings.symbols
        ray.init(address="auto", logging_level="WARNING")
        book = book_of(settings, f"walk-{name}")
        folder = settings.home / TRAININGS / name

        def walked() -> dict[str, Any]:
            walks: list[list[Exam]] = []
            held: list[Exam] = []
            for seed in range(settings.seed, settings.seed + seeds):
                exams, held = walk(
                    *(settings, names, tests, game, book, folder),
                    seed=seed,
                    n_turns=turns,
                    every=every,
                    n_runners=num_env_runners,
                )
                walks.append(exams)
            return summary(walks, held)

        # Whoever walks through the hold-out is counted.
        found = book.read(tests[0][0].train_start, tests[-1][1].test_end, walked, f"walk {name}")
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    except LeviBotError as exc:
        sys.stderr.write(f"walk_ppo: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
