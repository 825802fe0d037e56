"""What a policy sees and says, as gymnasium's spaces; and what it said, as target positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from levibot.errors import UsageError
from levibot.market.bars import FloatArray
from levibot.trading.own_account import CLIP, OWN
from rl.account_kernel import targets_of_choices, targets_of_positions
from rl.game import Actions
from rl.traded_market import TradedMarket

MISSING_SHARE = "missing_share"


def observation_names(market: TradedMarket) -> tuple[str, ...]:
    """(D,) what each number of an observation is."""
    return (*market.scaling.names, MISSING_SHARE, *OWN)


def observation_space(market: TradedMarket) -> spaces.Box:
    """Of one account: (D,) float32 in [-CLIP, CLIP]."""
    return spaces.Box(-CLIP, CLIP, (len(observation_names(market)),), np.float32)


def action_space(actions: Actions) -> spaces.Discrete[np.int64] | spaces.Box:
    """Of one account: see `Game.actions`."""
    return spaces.Discrete(3) if actions == "discrete" else spaces.Box(-1.0, 1.0, (1,), np.float32)


def read_actions(actions: Actions, said: npt.ArrayLike, targets: FloatArray) -> None:
    """Write what was said, one action an account, into targets (N,) as fractions of equity.

    said: (N,) whole numbers, or (N, 1) positions. Raises UsageError on another shape or kind, and on the
    first action outside its space.
    """
    values: npt.NDArray[Any] = np.asarray(said)
    if values.size != len(targets):
        raise UsageError(f"{values.size} actions are given for {len(targets)} accounts: each needs one.")
    if actions == "discrete":
        if values.dtype.kind not in "iu":
            raise UsageError(f"The actions are of type {values.dtype}: they must be whole numbers, 0 to 2.")
        wrong = targets_of_choices(values.reshape(-1).astype(np.int64, copy=False), targets)
    else:
        wrong = targets_of_positions(values.reshape(-1).astype(np.float32, copy=False), targets)
    if wrong >= 0:
        limits = "0, 1 or 2" if actions == "discrete" else "in [-1, 1]"
        raise UsageError(f"Action {wrong} is {values.reshape(-1)[wrong]}: it must be {limits}.")
