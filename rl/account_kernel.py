"""One decision of one account, and of many: the compiled step that both environments take.

Everything that prices a position is `levibot.trading.market_step.step_alone`. Here is what lies around it:
which row comes next, when an episode ends, what is seen of the account, and where the next one begins.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from levibot.market.bars import BoolArray, FloatArray
from levibot.trading.market_step import step_alone, weigh_alone
from levibot.trading.sizing import ordered_beyond
from rl.game import HOLDING_BARS, Play
from rl.reward import reward_of
from rl.scaling import CLIP, Float32Array
from rl.traded_market import Columns

# What is seen of the account, behind the features and the share of them that is missing.
OWN = ("position", "unrealised_return", "idle")


class Accounts(NamedTuple):
    """N accounts in the middle of their episodes. Each array is (N,), and changed in place.

    column: which symbol of the market. row: the row last seen; last_row: where the episode ends.
    units, last_price, cash, equity: as in `step_alone`. peak: highest equity of the episode. mean,
    mean_square: see `reward_of`. side: -1, 0 or 1, of the open position; opened_at_equity: equity before the
    order that opened it. idle_bars: since the last order, or since the episode began.
    random_state: of a generator of its own, see `draw`. is_over: the episode has ended.
    """

    column: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    last_row: npt.NDArray[np.int64]
    units: FloatArray
    last_price: FloatArray
    cash: FloatArray
    equity: FloatArray
    peak: FloatArray
    mean: FloatArray
    mean_square: FloatArray
    side: npt.NDArray[np.int64]
    opened_at_equity: FloatArray
    idle_bars: npt.NDArray[np.int64]
    random_state: npt.NDArray[np.uint64]
    is_over: BoolArray

    @classmethod
    def before_their_first_episode(cls, column: npt.NDArray[np.int64]) -> Self:
        """Accounts that trade these symbols; `begin` gives each its episode."""
        n = len(column)
        whole, real = np.zeros((4, n), dtype=np.int64), np.zeros((8, n))
        return cls(
            column=column.astype(np.int64),
            row=whole[0],
            last_row=whole[1],
            units=real[0],
            last_price=real[1],
            cash=real[2],
            equity=real[3],
            peak=real[4],
            mean=real[5],
            mean_square=real[6],
            side=whole[2],
            opened_at_equity=real[7],
            idle_bars=whole[3],
            random_state=np.zeros(n, dtype=np.uint64),
            is_over=np.ones(n, dtype=np.bool_),
        )


@njit(cache=True)
def draw(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The next 64 random bits, and the state after them: SplitMix64 (Steele, Lea & Flood 2014).

    A generator in one number: each account has its own, so that what it draws depends on its seed and on
    nothing that happens to the others.
    """
    state = np.uint64(state + np.uint64(0x9E3779B97F4A7C15))
    bits = state
    bits = np.uint64((bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    bits = np.uint64((bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(bits ^ (bits >> np.uint64(31))), state


@njit(cache=True)
def begin(i: int, market: Columns, accounts: Accounts, play: Play, observations: Float32Array) -> None:
    """Give account i a new episode, and show its first row in observations[i]."""
    first = market.begins[accounts.column[i]]
    n_rows = market.begins[accounts.column[i] + 1] - first
    length = play.length_bars if play.length_bars > 0 else n_rows - 1
    if play.random_start:
        bits, accounts.random_state[i] = draw(accounts.random_state[i])
        first += np.int64(bits % np.uint64(n_rows - length))
    accounts.row[i], accounts.last_row[i] = first, first + length
    accounts.units[i], accounts.last_price[i] = 0.0, market.mark[first]
    accounts.cash[i] = accounts.equity[i] = accounts.peak[i] = play.start_equity
    accounts.mean[i] = accounts.mean_square[i] = 0.0
    accounts.side[i], accounts.opened_at_equity[i], accounts.idle_bars[i] = 0, play.start_equity, 0
    accounts.is_over[i] = False
    _show(i, 0.0, market, accounts, play, observations)


@njit(cache=True)
def advance(
    i: int, target: float, market: Columns, accounts: Accounts, play: Play, observations: Float32Array
) -> tuple[float, bool, bool]:
    """Decide `target` at the close of account i's row: it fills at the next open and is marked at that close.

    Shows the new row in observations[i]; the reward, and whether the episode ended in bankruptcy or at its
    last row.
    """
    row = accounts.row[i] + 1
    before, held = accounts.equity[i], accounts.units[i]
    # What the band compares with is the position at the price at which the order would fill.
    weight = weigh_alone(held, accounts.cash[i], market.fill[row], accounts.last_price[i])
    units, last_price, cash, equity = step_alone(
        held,
        accounts.last_price[i],
        accounts.cash[i],
        ordered_beyond(target, weight, play.no_trade_band),
        market.fill[row],
        market.mark[row],
        play.rules,
        market.impact[row],
        market.funding_rate[row],
    )
    counted = max(equity, play.lost_equity)
    reward, accounts.peak[i], accounts.mean[i], accounts.mean_square[i] = reward_of(
        before, counted, accounts.peak[i], accounts.mean[i], accounts.mean_square[i], play.reward
    )
    accounts.row[i], accounts.units[i], accounts.last_price[i] = row, units, last_price
    accounts.cash[i], accounts.equity[i] = cash, equity
    accounts.idle_bars[i] = accounts.idle_bars[i] + 1 if units == held else 0
    position = weigh_alone(units, cash, last_price, last_price)
    # What a band leaves of a closed position is no open one, also when it grows a little with its price.
    side = 0 if abs(position) <= 2.0 * play.no_trade_band else (1 if position > 0.0 else -1)
    if side != accounts.side[i]:
        accounts.side[i], accounts.opened_at_equity[i] = side, before
    is_bankrupt = equity <= play.ruin_equity
    is_at_end = not is_bankrupt and row == accounts.last_row[i]
    accounts.is_over[i] = is_bankrupt or is_at_end
    _show(i, position, market, accounts, play, observations)
    return reward, is_bankrupt, is_at_end


@njit(cache=True)
def _show(
    i: int, position: float, market: Columns, accounts: Accounts, play: Play, observations: Float32Array
) -> None:
    known = market.known[accounts.row[i]]
    n = known.shape[0]
    seen = observations[i]
    for k in range(n):
        seen[k] = known[k]
    unrealised = 0.0
    if accounts.side[i] != 0:
        unrealised = (accounts.equity[i] / accounts.opened_at_equity[i] - 1.0) * play.per_unrealised
    seen[n] = min(max(position, -CLIP), CLIP)
    seen[n + 1] = min(max(unrealised, -CLIP), CLIP)
    seen[n + 2] = accounts.idle_bars[i] / (accounts.idle_bars[i] + HOLDING_BARS)


@njit(cache=True)
def begin_all(market: Columns, accounts: Accounts, play: Play, observations: Float32Array) -> None:
    """`begin` for every account. observations: (N, D), overwritten."""
    for i in range(accounts.row.shape[0]):
        begin(i, market, accounts, play, observations)


@njit(cache=True)
def advance_all(
    targets: FloatArray,
    market: Columns,
    accounts: Accounts,
    play: Play,
    observations: Float32Array,
    rewards: FloatArray,
    bankrupt: BoolArray,
    at_end: BoolArray,
) -> None:
    """`advance` for every account; one whose episode is over begins its next, with a reward of 0.

    targets: (N,), not read for those. observations: (N, D), rewards, bankrupt, at_end: (N,): overwritten.
    Nothing is allocated.
    """
    for i in range(targets.shape[0]):
        if accounts.is_over[i]:
            begin(i, market, accounts, play, observations)
            rewards[i], bankrupt[i], at_end[i] = 0.0, False, False
        else:
            rewards[i], bankrupt[i], at_end[i] = advance(i, targets[i], market, accounts, play, observations)


@njit(cache=True)
def targets_of_choices(choices: npt.NDArray[np.int64], targets: FloatArray) -> int:
    """Write the positions of choices 0, 1, 2 into targets (N,); the first that is none of them, or -1."""
    for i in range(choices.shape[0]):
        if not 0 <= choices[i] <= 2:
            return i
        targets[i] = choices[i] - 1.0
    return -1


@njit(cache=True)
def targets_of_positions(positions: Float32Array, targets: FloatArray) -> int:
    """Write positions (N,) in [-1, 1] into targets (N,); the first that lies outside or is NaN, or -1."""
    for i in range(positions.shape[0]):
        if not -1.0 <= positions[i] <= 1.0:
            return i
        targets[i] = positions[i]
    return -1
