"""What a policy earns when it draws nothing: one account a symbol, over a whole window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core.columns import Columns

from levibot.errors import DataError
from levibot.market.bars import FloatArray
from levibot.trading.costs import Costs
from levibot.trading.metrics import daily_returns, sharpe
from rl.game import Episode, Game
from rl.scaling import Float32Array
from rl.traded_market import TradedMarket
from rl.trading_env import TradingEnv

Decide = Callable[[Float32Array], npt.NDArray[Any]]
FREE = Costs(fee_bps=0.0, slippage_bps=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """daily_net, daily_gross: (D,) of equal shares in every symbol, evened out each midnight.

    Gross are the same decisions where trading is free. held_share: of the bars, with a position larger than
    the no-trade band.
    """

    daily_net: FloatArray
    daily_gross: FloatArray
    held_share: float

    @property
    def net_sharpe(self) -> float:
        """Annualised; NaN where nothing moved."""
        return sharpe(self.daily_net)

    @property
    def gross_sharpe(self) -> float:
        """Annualised; NaN where nothing moved."""
        return sharpe(self.daily_gross)


def decisions_of(module: Any, game: Game) -> Decide:
    """The likeliest action of a module's policy: (N, D) to (N,) choices or (N, 1) positions."""

    def decide(seen: Float32Array) -> npt.NDArray[Any]:
        with torch.inference_mode():
            said = module.forward_inference({Columns.OBS: torch.from_numpy(seen)})
        logits: npt.NDArray[np.float32] = said[Columns.ACTION_DIST_INPUTS].numpy()
        if game.actions == "discrete":
            choices: npt.NDArray[np.int64] = logits.argmax(axis=1)
            return choices
        positions: npt.NDArray[np.float32] = np.clip(logits[:, :1], -1.0, 1.0)
        return positions

    return decide


def sit(decide: Decide, market: TradedMarket, game: Game) -> Exam:
    """Play every symbol once. Raises DataError where the symbols' bars are not of the same days."""
    whole = replace(game, episode=Episode(ruin_share=game.episode.ruin_share))
    net: list[FloatArray] = []
    gross: list[FloatArray] = []
    held: list[float] = []
    for symbol in market.symbols:
        column = market.column(symbol)
        closes_at = market.closes_at[market.begins[column] : market.begins[column + 1]]
        equity, actions, positions = _play(decide, TradingEnv.over(market, symbol, whole))
        free = TradingEnv.over(market, symbol, replace(whole, costs=FREE))
        said = iter(actions)
        unpaid, _, _ = _play(lambda _, said=said: next(said), free, n_most=len(actions))  # type: ignore[misc]
        held.append(float(np.mean(np.abs(positions) > game.no_trade_band)))
        for curve, into in ((equity, net), (unpaid, gross)):
            # An account that was ruined earns nothing more.
            level = np.concatenate(([game.start_equity], curve))
            level = np.pad(level, (0, len(closes_at) - len(level)), mode="edge")
            into.append(daily_returns(closes_at, level, game.start_equity))
    if len({len(days) for days in net}) > 1:
        raise DataError(
            f"{', '.join(market.symbols)} have not the same days in this window: an exam needs them all."
        )
    return Exam(np.mean(net, axis=0), np.mean(gross, axis=0), float(np.mean(held)))


def _play(
    decide: Decide, env: TradingEnv, n_most: int | None = None
) -> tuple[FloatArray, list[npt.NDArray[Any]], FloatArray]:
    """Equity after each decision, the decisions, and the position that each was made at."""
    at = env.observation_names.index("position")
    seen, _ = env.reset(seed=0)
    equity: list[float] = []
    positions: list[float] = []
    actions: list[npt.NDArray[Any]] = []
    is_over = False
    while not is_over and (n_most is None or len(actions) < n_most):
        action = decide(seen[None, :])
        actions.append(action)
        positions.append(float(seen[at]))
        seen, _, is_bankrupt, is_at_end, info = env.step(action)
        is_over = is_bankrupt or is_at_end
        equity.append(info["equity"])
    return np.array(equity), actions, np.array(positions)
