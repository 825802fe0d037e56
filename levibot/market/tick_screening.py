"""Tells sound trades from rows that are none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from levibot.errors import DataError
from levibot.market.screening import NO_REASON, Screened, first_broken, mark_repeats, rejects_of
from levibot.market.ticks import COLUMNS, LARGEST, SMALLEST, Ticks
from levibot.market.validation import frozen, instants, is_impossible, numbers

# What stands in a column of whole numbers where the source has nothing.
NO_ID, NO_SIDE = 0, -1


def screen_ticks(symbol: str, columns: Mapping[str, npt.ArrayLike], where: str) -> Screened[Ticks]:
    """The trades among the rows in `columns`, by trade id, and the rows that are none.

    columns: those of `Ticks`, each (T,); ts is datetime64 in UTC of any unit, and is cut to microseconds;
    is_buyer_maker is bool, or 1, 0 and NO_SIDE. The order of the rows says nothing. Of several rows of one
    trade id the first sound one counts, as in the store; one with other values is a `conflict`.
    Raises DataError when a column is missing, of another type or of another length.
    """
    for name in COLUMNS:
        if name not in columns:
            raise DataError(
                f"{symbol} in {where} has no column {name!r}.",
                hint=f"Trades need the columns {', '.join(COLUMNS)}; found {', '.join(columns) or 'none'}.",
            )
    raw_ts = instants(symbol, where, columns["ts"])
    price, size = (numbers(symbol, where, name, columns[name]) for name in ("price", "size"))
    trade_id = _whole(symbol, where, "trade_id", columns["trade_id"], "iu")
    side = _whole(symbol, where, "is_buyer_maker", columns["is_buyer_maker"], "bi")
    for name, values in (("price", price), ("size", size), ("trade_id", trade_id), ("is_buyer_maker", side)):
        if len(values) != len(raw_ts):
            raise DataError(
                f"{symbol} in {where} has {len(raw_ts)} values of ts but {len(values)} of {name}.",
                hint="Every column needs one value a row.",
            )
    ts = raw_ts.astype("datetime64[us]")
    reason = first_broken(
        len(ts),
        (
            ("no_instant", np.isnat(ts)),
            ("impossible_instant", is_impossible(ts)),
            ("no_id", trade_id <= NO_ID),
            ("no_side", (side != 0) & (side != 1)),
            ("not_finite", ~(np.isfinite(price) & np.isfinite(size))),
            ("not_positive", (price <= 0.0) | (size <= 0.0)),
            ("too_small_or_large", np.minimum(price, size) < SMALLEST),
            ("too_small_or_large", np.maximum(price, size) > LARGEST),
        ),
    )
    kept = np.flatnonzero(reason == NO_REASON)
    repeats = mark_repeats(reason, kept, trade_id, (ts, price, size, side))
    kept = kept[~repeats[kept] & (reason[kept] == NO_REASON)]
    own = (ts, price, size, trade_id, side.astype(np.bool_))
    is_in_order = bool((np.diff(trade_id[kept]) > 0).all())
    if not is_in_order:
        kept = kept[np.argsort(trade_id[kept], kind="stable")]
    if len(kept) < len(ts) or not is_in_order:
        own = tuple(column[kept] for column in own)
    sound = Ticks(symbol, *map(frozen, own))
    raw = {name: np.asarray(columns[name]) for name in COLUMNS}
    return Screened(sound, rejects_of(symbol, reason, ts, sound.ts, raw), ts[repeats])


def _whole(symbol: str, where: str, name: str, values: npt.ArrayLike, kinds: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in kinds or array.ndim != 1:
        raise DataError(
            f"{symbol} in {where}: {name} is {array.dtype} with {array.ndim} dimension(s), "
            f"not a column of {'whole numbers' if 'u' in kinds else 'yes and no'}.",
            hint=f"Store {name} as a column of {'int64' if 'u' in kinds else 'bool'}.",
        )
    return array.astype(np.int64)


def screen_again(ticks: Ticks, where: str) -> Screened[Ticks]:
    """As `screen_ticks`, for what came as `Ticks` from a feed that does not look at every rule."""
    return screen_ticks(ticks.symbol, {name: getattr(ticks, name) for name in COLUMNS}, where)
