"""The gate between a policy and its ONNX graph: only what says the same is registered.

Rows like those of the training, random ones and extreme ones, 100,000 in all; then an episode in which the
graph is asked bar by bar what the policy was asked, and may not want another action once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core.columns import Columns

from levibot.errors import DataError, RegistryError
from levibot.market.bars import FloatArray
from levibot.serving.policy import ACTION, LOGITS, POSITION, open_graph, run_graph
from levibot.trading.own_account import CLIP, OWN
from rl.exam import decisions_of
from rl.game import Episode, Game
from rl.scaling import Float32Array, Scaling
from rl.spaces import read_actions
from rl.traded_market import TradedMarket
from rl.trading_env import TradingEnv

# Of a logit, and of a continuous policy's mean and log deviation.
LARGEST_DIFFERENCE = 1e-5
N_ROWS = 100_000
MOST_DECISIONS = 2_000
_BLOCK = 10_000
_EXTREMES = (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e38, 1e-300, 0.0, -0.0)


@dataclass(frozen=True, slots=True)
class Parity:
    """largest_differences: of the logits, by kind of rows. n_decisions: of the episode, all the same."""

    largest_differences: Mapping[str, float]
    n_rows: int
    n_decisions: int

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "largest_differences": dict(self.largest_differences),
            "allowed": LARGEST_DIFFERENCE,
            "rows": self.n_rows,
            "decisions": self.n_decisions,
        }


def check_parity(
    module: Any,
    graph: bytes,
    market: TradedMarket,
    game: Game,
    rng: np.random.Generator,
    n_rows: int = N_ROWS,
) -> Parity:
    """Hold a graph against the module that it was made of. market: of the training, with `unscaled`.

    Raises RegistryError where the two differ by more than LARGEST_DIFFERENCE, or once in an action.
    """
    if market.unscaled is None:
        raise DataError("An export is judged on features before scaling: this market has not kept them.")
    session = open_graph(graph, len(market.scaling.names))
    differences: dict[str, float] = {}
    for kind, rows in rows_of(market.unscaled, market.scaling, rng, n_rows).items():
        largest = 0.0
        for begin in range(0, len(rows), _BLOCK):
            block = rows[begin : begin + _BLOCK]
            said, own = run_graph(session, block), _logits(module, as_seen(market.scaling, block))
            if not np.isfinite(said[LOGITS]).all():
                raise RegistryError(f"The ONNX graph says no finite number on {kind} rows.")
            largest = max(largest, float(np.abs(said[LOGITS].astype(np.float64) - own).max()))
            _check_mapping(said, game)
        differences[kind] = largest
    kind = max(differences, key=lambda kind: differences[kind])
    if differences[kind] > LARGEST_DIFFERENCE:
        raise RegistryError(
            f"The ONNX graph differs from its policy by {differences[kind]:.3g} on {kind} rows; "
            f"{LARGEST_DIFFERENCE:g} is allowed.",
            hint="Nothing was registered.",
        )
    return Parity(differences, n_rows, _play(module, session, market, market.unscaled, game))


def rows_of(
    features: FloatArray, scaling: Scaling, rng: np.random.Generator, n_rows: int
) -> dict[str, FloatArray]:
    """Observations (n, F + 3) before scaling, by kind, `n_rows` in all."""
    sizes = [n_rows - 2 * (n_rows // 3), n_rows // 3, n_rows // 3]
    shapes = [(n, features.shape[1]) for n in sizes]
    training = features[rng.integers(len(features), size=sizes[0])]
    random = np.array(scaling.mean) + 3.0 * np.array(scaling.deviation) * rng.standard_normal(shapes[1])
    random[rng.random(shapes[1]) < 0.05] = np.nan
    extreme = features[rng.integers(len(features), size=sizes[2])]
    is_extreme = rng.random(shapes[2]) < 0.3
    extreme[is_extreme] = rng.choice(_EXTREMES, size=int(is_extreme.sum()))
    found = {"training": training, "random": random, "extreme": extreme}
    return {kind: np.concatenate([rows, _own(rng, len(rows))], axis=1) for kind, rows in found.items()}


def as_seen(scaling: Scaling, rows: FloatArray) -> Float32Array:
    """What an environment shows of observations (N, F + 3) before scaling."""
    n_features = len(scaling.names)
    own = rows[:, n_features:].astype(np.float32)
    return np.concatenate([scaling.apply(rows[:, :n_features]), own], axis=1)


def _own(rng: np.random.Generator, n_rows: int) -> FloatArray:
    position = rng.uniform(-CLIP, CLIP, n_rows)
    unrealised = np.clip(2.0 * rng.standard_normal(n_rows), -CLIP, CLIP)
    return np.stack([position, unrealised, rng.random(n_rows)], axis=1)


def _logits(module: Any, seen: Float32Array) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        said = module.forward_inference({Columns.OBS: torch.from_numpy(seen)})
    logits: npt.NDArray[np.float32] = said[Columns.ACTION_DIST_INPUTS].numpy()
    return logits


def _check_mapping(said: Mapping[str, npt.NDArray[Any]], game: Game) -> None:
    """The graph's action is that of its own logits, and its position that of its action."""
    if game.actions == "discrete":
        wanted = said[LOGITS].argmax(axis=1)
    else:
        wanted = np.clip(said[LOGITS][:, :1], -1.0, 1.0)
    targets = np.empty(len(wanted))
    read_actions(game.actions, wanted, targets)
    if not (np.array_equal(said[ACTION], wanted) and np.array_equal(said[POSITION], targets)):
        raise RegistryError("The ONNX graph reads its logits as other actions or positions than training.")


def _play(module: Any, session: Any, market: TradedMarket, unscaled: FloatArray, game: Game) -> int:
    """Play the first symbol from its first row; returns the number of decisions, all alike."""
    whole = replace(game, episode=Episode(ruin_share=game.episode.ruin_share))
    env = TradingEnv.over(market, market.symbols[0], whole)
    decide, targets = decisions_of(module, game), np.empty((2, 1))
    seen, info = env.reset(seed=0)
    n_decisions, is_over = 0, False
    while not is_over and n_decisions < MOST_DECISIONS:
        action = decide(seen[None, :])
        row = np.concatenate([unscaled[info["row"]], seen[-len(OWN) :].astype(np.float64)])
        said = run_graph(session, row[None, :])
        read_actions(game.actions, action, targets[0])
        read_actions(game.actions, said[ACTION], targets[1])
        apart = abs(float(targets[0, 0] - targets[1, 0]))
        if apart > (0.0 if game.actions == "discrete" else LARGEST_DIFFERENCE):
            raise RegistryError(
                f"The ONNX graph wants a position of {targets[1, 0]:.6g} at decision {n_decisions} of an "
                f"episode, its policy {targets[0, 0]:.6g}: they differ by {apart:.3g}.",
                hint="Nothing was registered.",
            )
        seen, _, is_bankrupt, is_at_end, info = env.step(action)
        is_over = is_bankrupt or is_at_end
        n_decisions += 1
    return n_decisions
