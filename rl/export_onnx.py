"""Export a trained policy: `python -m rl.export_onnx --checkpoint DIR`, a turn's folder of a training.

The graph holds the scaling, the net and what its outputs mean; it is registered beside the models only where
it says what the policy says. Checkpoints hold pickles and are read from this run's own state folder alone.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import torch
import typer

from levibot.errors import LeviBotError, UsageError
from levibot.launch.commit import current_commit
from levibot.learning.walk_forward import last_day_before
from levibot.serving.policy import FILE, KIND, PlayedBy
from levibot.settings import Settings
from levibot.stores.connect import open_policies, open_trial_journal
from levibot.stores.registry import Registry, content_key
from levibot.telemetry.logging import configure_logging
from rl.checkpoints import module_of
from rl.export_gate import N_ROWS, check_parity
from rl.game import Game
from rl.policy_graph import policy_graph
from rl.spaces import observation_names
from rl.traded_market import TradedMarket
from rl.training import DESCRIPTION, JUDGED, TRAININGS, game_of

log = structlog.get_logger()


def export(
    module: Any,
    market: TradedMarket,
    game: Game,
    registry: Registry,
    described: dict[str, Any],
    *,
    seed: int,
    n_rows: int = N_ROWS,
) -> str:
    """Register a policy's graph, and return the version; the same policy again is the same version.

    market: of the training, with `unscaled`. described: what is known of the training beyond these; JSON
    values. Raises RegistryError where the graph is not the policy, and what the registry raises.
    """
    graph = policy_graph(module, market.scaling, game.actions)
    parity = check_parity(module, graph, market, game, np.random.default_rng(seed), n_rows)
    scaling = market.scaling
    played_by = PlayedBy(
        game.actions, game.costs, game.terms, game.no_trade_band, game.start_equity, scaling.bar_volatility
    )
    metadata = {
        **described,
        "kind": KIND,
        "view": scaling.view,
        "view_version": scaling.view_version,
        "feature_names": list(scaling.names),
        "observation": list(observation_names(market)),
        "symbols": list(market.symbols),
        "interval_s": market.interval.total_seconds(),
        "train_start": scaling.since.isoformat(),
        "train_end": scaling.until.isoformat(),
        "data_hash": market.data_hash,
        "seed": seed,
        "game": played_by.to_json(),
        "parity": parity.to_json(),
    }
    files = {FILE: graph}
    version = registry.publish(metadata, files, content_key(metadata, files))
    log.info("policy is registered", version=version, **parity.to_json())
    return version


def export_checkpoint(settings: Settings, checkpoint: Path) -> str:
    """Export a turn of a training of these settings. Raises UsageError on another folder or market."""
    place = checkpoint.resolve()
    if not place.is_relative_to((settings.home / TRAININGS).resolve()):
        raise UsageError(
            f"{checkpoint} is not in {settings.home / TRAININGS}: a checkpoint runs code when it is read.",
            hint="Export only what this state folder has trained.",
        )
    training = place.parent.parent
    if not (place / "learner_group").is_dir() or not (training / DESCRIPTION).exists():
        raise UsageError(
            f"{checkpoint} is no whole checkpoint of a training.", hint="Name a `turn-…` folder of one."
        )
    told = json.loads((training / DESCRIPTION).read_text())
    if told["market_id"] != settings.market_id:
        raise UsageError(
            f"{checkpoint} was trained on market {told['market_id']}; the settings are of "
            f"{settings.market_id}.",
            hint="Export it with the settings of its training.",
        )
    turn = int(place.name.removeprefix("turn-"))
    objective, drawdown_penalty = told["reward"]
    game = game_of(told["actions"], objective, drawdown_penalty)
    start, until, judge_end = (datetime.fromisoformat(instant) for instant in told["window"])
    market = TradedMarket.load(settings, told["symbols"], start, last_day_before(until), keeps_unscaled=True)
    judged = json.loads((training / JUDGED).read_text()) if (training / JUDGED).exists() else {}
    counted = open_trial_journal(settings).family(settings.market_id, market.data_hash, start, judge_end)
    described = {
        "market_id": settings.market_id,
        "source": settings.source,
        "git_commit": current_commit(),
        "judged_until": judge_end.isoformat(),
        "metrics": judged.get(str(turn), {}),
        "trials": {"judged_in_this_training": len(judged), "counted_on_this_period": len(counted)},
        "parameters": told["learning"],
        "training": {"turn": turn, "reward": objective, "drawdown_penalty": drawdown_penalty},
    }
    module = module_of(place)
    return export(module, market, game, open_policies(settings), described, seed=told["seed"])


def main(
    checkpoint: Annotated[Path, typer.Option(help="a `turn-…` folder of a training of this state folder")],
    activate: Annotated[
        bool, typer.Option("--activate", help="it is the policy that decides in shadow from now on")
    ] = False,
) -> None:
    """Export a checkpoint of `rl.train_ppo` as ONNX and register it; prints the version."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level, "export_onnx")
        torch.set_num_threads(1)
        version = export_checkpoint(settings, checkpoint)
        if activate:
            # In a registry of its own: no policy can become the model that serves.
            open_policies(settings).activate(version, f"exported from {checkpoint.name}")
        sys.stdout.write(f"{version}\n")
    except LeviBotError as exc:
        sys.stderr.write(f"export_onnx: {exc}\n")
        raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc


if __name__ == "__main__":
    typer.run(main)
