"""One decision of one account, and of many: the compiled step that both environments take.

What an account holds and sees is `levibot.trading.own_account`, as where it is served. Here is what lies
around it: which row comes next, what is rewarded, when an episode ends, and where the next one begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from levibot.market.bars import BoolArray, FloatArray
from levibot.trading.own_account import HELD_FIELDS, hold, seen_of
from rl.game import Play
from rl.reward import reward_of
from rl.scaling import Float32Array
from rl.traded_market import Columns, Quotes

# One account in the middle of its episode. column: which symbol of the market. row: the row last seen;
# last_row: where the episode ends. peak: highest equity of the episode. mean, mean_square: see `reward_of`.
# random_state: of a generator of its own, see `draw`. is_over: the episode has ended. The others: see
# `HELD_FIELDS`.
# One record an account, not an array a field: a step reads all of one account, and compiled code hands a
# record on as one pointer.
ACCOUNT = np.dtype(
    [
        *((name, np.int64) for name in ("column", "row", "last_row", "is_over")),
        *HELD_FIELDS,
        *((name, np.float64) for name in ("peak", "mean", "mean_square")),
        ("random_state", np.uint64),
    ]
)

Accounts = npt.NDArray[np.void]  # (N,) of ACCOUNT, changed in place


def before_their_first_episode(column: npt.NDArray[np.int64]) -> Accounts:
    """Accounts (N,) that trade these symbols (N,); `begin_all` gives each its episode."""
    accounts = np.zeros(len(column), dtype=ACCOUNT)
    accounts["column"] = column
    accounts["is_over"] = 1
    return accounts


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
def _begin(account: Any, begins: npt.NDArray[np.int64], quotes: Quotes, play: Play) -> None:
    """Give an account a new episode; its first row is the one to be seen."""
    first = begins[account.column]
    n_rows = begins[account.column + 1] - first
    length = play.length_bars if play.length_bars > 0 else n_rows - 1
    if play.random_start:
        bits, state = draw(account.random_state)
        account.random_state = state
        first += np.int64(bits % np.uint64(n_rows - length))
    account.row, account.last_row = first, first + length
    account.units, account.last_price = 0.0, quotes[first].mark
    account.cash = account.equity = account.peak = account.opened_at_equity = play.start_equity
    account.mean = account.mean_square = 0.0
    account.side = account.idle_bars = account.is_over = 0


@njit(cache=True)
def _advance(account: Any, target: float, quote: Any, play: Play) -> tuple[float, float, bool, bool]:
    """Decide `target` at the close of an account's row: it fills at the next open, and is marked there.

    quote: of the row that follows. Returns the reward, the position at the close, and whether the episode
    ended in bankruptcy or at its last row.
    """
    before = account.equity
    position = hold(
        account,
        target,
        quote.fill,
        quote.mark,
        quote.impact,
        quote.funding_rate,
        play.rules,
        play.no_trade_band,
    )
    equity = account.equity
    counted = max(equity, play.lost_equity)
    reward, peak, mean, mean_square = reward_of(
        before, counted, account.peak, account.mean, account.mean_square, play.reward
    )
    account.peak, account.mean, account.mean_square = peak, mean, mean_square
    account.row += 1
    is_bankrupt = equity <= play.ruin_equity
    is_at_end = not is_bankrupt and account.row == account.last_row
    account.is_over = 1 if is_bankrupt or is_at_end else 0
    return reward, position, is_bankrupt, is_at_end


@njit(cache=True)
def begin_all(market: Columns, accounts: Accounts, play: Play, observations: Float32Array) -> None:
    """Give every account a new episode. observations: (N, D), overwritten with their first rows."""
    known, n_known = market.known, market.known.shape[1]
    for i in range(accounts.shape[0]):
        account = accounts[i]
        _begin(account, market.begins, market.quotes, play)
        for k in range(n_known):
            observations[i, k] = known[account.row, k]
        own = seen_of(account, 0.0, play.per_unrealised)
        for k in range(len(own)):
            observations[i, n_known + k] = own[k]


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
    """One decision of every account; one whose episode is over begins its next, with a reward of 0.

    targets: (N,), not read for those. observations: (N, D), rewards, bankrupt, at_end: (N,): overwritten.
    Nothing is allocated.
    """
    known, quotes, begins, n_known = market.known, market.quotes, market.begins, market.known.shape[1]
    for i in range(targets.shape[0]):
        account, position = accounts[i], 0.0
        if account.is_over:
            _begin(account, begins, quotes, play)
            rewards[i], bankrupt[i], at_end[i] = 0.0, False, False
        else:
            rewards[i], position, bankrupt[i], at_end[i] = _advance(
                account, targets[i], quotes[account.row + 1], play
            )
        own = seen_of(account, position, play.per_unrealised)
        for k in range(len(own)):
            observations[i, n_known + k] = own[k]
    # In a loop of its own: the processor fetches the rows of several accounts at once, which it would not do
    # with the arithmetic of a step between them.
    for i in range(targets.shape[0]):
        row = accounts[i].row
        for k in range(n_known):
            observations[i, k] = known[row, k]


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
