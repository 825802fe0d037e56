"""A training: learn, keep, judge and count, until the turns are done.

Whatever kills it, it goes on from the newest whole checkpoint. Weights and optimiser are then exact; the
turns after that checkpoint are played again, in new episodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import structlog
import torch

from levibot.clock import SystemClock
from levibot.errors import UsageError
from levibot.launch.commit import current_commit
from levibot.learning.evidence.book import Scored, TrialBook
from levibot.learning.walk_forward import last_day_before
from levibot.market.bars import to_datetime
from levibot.settings import Settings
from levibot.stores.connect import open_trial_journal
from rl.array_ppo import Learning, ppo_config
from rl.checkpoints import Checkpoints
from rl.exam import Exam, decisions_of, sit
from rl.game import Actions, Episode, Game
from rl.reward import Objective, Reward
from rl.traded_market import TradedMarket
from rl.training_log import TrainingLog, told

# In the state folder, one folder a training.
TRAININGS, DESCRIPTION, JUDGED = "trainings", "training.json", "judged.json"
SMOKE_ACCOUNTS = 16
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained on what. make: gives the market of the training, here and on every runner.

    judge: gives the market that checkpoints are judged on, from the scaling of the other; a later one.
    """

    make: Callable[[], TradedMarket]
    judge: Callable[..., TradedMarket]
    game: Game
    learning: Learning
    description: dict[str, Any]


def train(
    task: Task,
    folder: Path,
    book: TrialBook,
    *,
    seed: int,
    n_turns: int,
    every: int,
    n_runners: int,
    resume: bool,
) -> dict[int, Exam]:
    """Learn until `n_turns` are done; every `every` turns a checkpoint is kept, judged and counted.

    Ray must be there. Returns what was judged in this session, by turn.
    Raises UsageError where the folder holds another training, or one that is not to be gone on with.
    """
    clock, began = SystemClock(), time.monotonic()
    description = description_of(task, seed)
    _describe(folder, description, resume=resume)
    checkpoints = Checkpoints(folder / "checkpoints")
    torch.set_num_threads(1)
    market = task.make()
    later = task.judge(scaling=market.scaling)
    config = ppo_config(task.make, market, task.game, task.learning, seed=seed, n_runners=n_runners)
    algorithm = config.build_algo()
    told_to = TrainingLog(folder / "events", folder.name)
    judged: dict[int, Exam] = {}
    try:
        if resume and checkpoints.turns():
            newest = checkpoints.newest()
            algorithm.restore_from_path(str(checkpoints.place(newest).absolute()))
            log.info("goes on", turn=newest, folder=str(folder))
        while algorithm.iteration < n_turns:
            started = time.monotonic()
            result = algorithm.train()
            # A turn in which every runner died has learned nothing; they are started again for the next.
            if "learners" not in result:
                log.warning("turn without samples", turn=algorithm.iteration)
                continue
            told_to.turn(told(result, time.monotonic() - started))
            turn = algorithm.iteration
            if turn % every and turn < n_turns:
                continue
            started_at = clock.now()
            exam = judged[turn] = sit(decisions_of(algorithm.get_module(), task.game), later, task.game)
            book.record(scored(exam, later, started_at, seed, description | {"turn": turn}))
            _judge(folder, turn, exam)
            told_to.exam(turn, _numbers(exam))
            checkpoints.save(turn, lambda there: algorithm.save_to_path(str(there.absolute())), best(folder))
    finally:
        told_to.close()
        algorithm.stop()
    log.info("training is done", turns=n_turns, took_s=round(time.monotonic() - began, 1), best=best(folder))
    return judged


def best(folder: Path) -> int | None:
    """The turn whose judgement was best, by net Sharpe ratio; an account that never moved counts as 0."""
    judged = _judged(folder)
    return max(judged, key=lambda turn: judged[turn]["net_sharpe"], default=None)


def description_of(task: Task, seed: int) -> dict[str, Any]:
    """Everything that a training depends on, as JSON values."""
    return task.description | {"seed": seed, "learning": task.learning.parameters()}


def scored(
    exam: Exam, later: TradedMarket, started_at: datetime, seed: int, parameters: dict[str, Any]
) -> Scored:
    """What is counted for an exam on the market `later`."""
    return Scored(
        data_hash=later.data_hash,
        view=later.scaling.view,
        view_version=later.scaling.view_version,
        seed=seed,
        parameters=parameters,
        start=to_datetime(later.closes_at.min()) - later.interval,
        end=to_datetime(later.closes_at.max()),
        started_at=started_at,
        net_sharpe=exam.net_sharpe,
        gross_sharpe=exam.gross_sharpe,
        daily_returns=exam.daily_net,
    )


def _numbers(exam: Exam) -> dict[str, float]:
    net, gross = (0.0 if np.isnan(of) else of for of in (exam.net_sharpe, exam.gross_sharpe))
    total = float(np.prod(1.0 + exam.daily_net) - 1.0)
    return {"net_sharpe": net, "gross_sharpe": gross, "net_return": total, "held_share": exam.held_share}


def _judged(folder: Path) -> dict[int, dict[str, float]]:
    there = folder / JUDGED
    return {int(turn): of for turn, of in json.loads(there.read_text()).items()} if there.exists() else {}


def _judge(folder: Path, turn: int, exam: Exam) -> None:
    _write(folder / JUDGED, _judged(folder) | {turn: _numbers(exam)})


def _describe(folder: Path, description: dict[str, Any], *, resume: bool) -> None:
    there = folder / DESCRIPTION
    if not there.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(there, description)
        return
    if not resume:
        raise UsageError(f"{folder} holds a training.", hint="Go on with `--resume`, or take another name.")
    if json.loads(there.read_text()) != json.loads(json.dumps(description)):
        raise UsageError(
            f"{folder} holds a training of other options than these.", hint=f"Its own are in {there}."
        )


def _write(there: Path, content: Any) -> None:
    """Whole or not at all."""
    draft = there.with_name(f".{there.name}")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.rename(there)


def game_of(actions: str, reward: str, drawdown_penalty: float) -> Game:
    """A week an episode, from anywhere. Raises DataError on what there is not."""
    return Game(
        cast(Actions, actions),
        reward=Reward(cast(Objective, reward), drawdown_penalty=drawdown_penalty),
        episode=Episode(168, random_start=True),
    )


def task_of(
    settings: Settings,
    symbols: Sequence[str],
    window: tuple[datetime, datetime, datetime],
    game: Game,
    *,
    smoke: bool = False,
) -> Task:
    """Learn on the settings' market from the first instant to the second, be judged from there to the third.

    The instants are midnights.
    """
    start, until, judge_end = window
    last_days = last_day_before(until), last_day_before(judge_end)
    return Task(
        make=partial(TradedMarket.load, settings, symbols, start, last_days[0]),
        judge=partial(TradedMarket.load, settings, symbols, until, last_days[1]),
        game=game,
        learning=replace(Learning(), n_accounts=SMOKE_ACCOUNTS) if smoke else Learning(),
        description={
            "market_id": settings.market_id,
            "symbols": list(symbols),
            "window": [instant.isoformat() for instant in window],
            "actions": game.actions,
            "reward": [game.reward.objective, game.reward.drawdown_penalty],
        },
    )


def book_of(settings: Settings, run_id: str) -> TrialBook:
    """Where the trials of a training are counted."""
    return TrialBook(
        open_trial_journal(settings),
        settings.market_id,
        SystemClock(),
        kind="rl",
        run_id=run_id,
        git_commit=current_commit(),
    )
