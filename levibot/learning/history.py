"""Brings the feature history up to the tick store: new rows, their labels, and what corrected bars change.

A pass reads the bars that the newest rows need, never more. It is cut into steps; a step's rows and the mark
that says how far it came are one write. So a pass may be killed anywhere, and the next goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np

from levibot.features.engine import compute
from levibot.features.side_data import attach_stored
from levibot.features.view import FeatureView
from levibot.learning.labels import forward_returns, label_name
from levibot.learning.signal import SignalParameters
from levibot.market.bars import FIELDS, Bars, Panel, to_datetime
from levibot.stores.history_parts import SAME_WITHIN
from levibot.stores.history_rows import Rows, Series
from levibot.stores.history_writer import MAX_SEGMENT_ROWS
from levibot.stores.offline import OfflineStore
from levibot.stores.ticks import TickStore

T = TypeVar("T")

# Rows a step: what a killed pass has to do again. As many as a segment has at most: a first load writes few
# files, which takes more time than to compute what is in them.
STEP_ROWS = MAX_SEGMENT_ROWS
# A late bar is looked for in so many rows before those that the warm-up reads.
CHECKED_ROWS = 24 * 7

Digests = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a pass added. up_to: close of the newest row, None before the first bar. corrected_from: open of
    the first bar that was not what it had been, None where there was none.
    """

    up_to: datetime | None
    n_rows: int
    corrected_from: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far the history came, and of which bars. digests: by symbol and day, of the bars up to there."""

    view_version: str
    symbols: tuple[str, ...]
    interval_s: float
    up_to_us: int
    digests: Digests

    def text(self) -> str:
        fields = {name: getattr(self, name) for name in ("view_version", "symbols", "interval_s", "up_to_us")}
        return json.dumps({**fields, "digests": self.digests})


class HistoryLoader:
    """Loads one view of one market. State: none; what it knows is in the history."""

    def __init__(
        self,
        ticks: TickStore,
        store: OfflineStore,
        *,
        market_id: str,
        symbols: Sequence[str],
        interval: timedelta,
        view: FeatureView,
        horizons_bars: Sequence[int] = SignalParameters().horizons_bars,
        thread: Executor | None = None,
    ) -> None:
        """thread: the only one that may touch the store, where others ask it too."""
        self._ticks = ticks
        self._store = store
        self._thread = thread
        self._market_id = market_id
        self._symbols = tuple(symbols)
        self._interval = interval
        self._view = view
        self._horizons_bars = tuple(horizons_bars)

    async def load(
        self, as_of: datetime, from_the_start: bool = False, assume_available_at_close: bool = False
    ) -> Loaded:
        """Add what the bars that are finished at `as_of` say and the history does not.

        from_the_start: compute everything again; only what differs is added.
        assume_available_at_close: declare every row to have been known as soon as its bar was finished. This
            is for a history that was recorded elsewhere; it begins at the start, and is written down.
        """
        mark = None if from_the_start or assume_available_at_close else await self._mark()
        bars = await self._read(mark, as_of, self._view.warmup_bars + CHECKED_ROWS)
        begin_us = None if mark is None else mark.up_to_us
        corrected_us = None if mark is None else _first_change(mark, bars)
        if corrected_us is not None and mark is not None:
            # The rows from there on are computed anew, and need their own warm-up.
            begin_us = corrected_us
            n_since = (mark.up_to_us - corrected_us) // _us(self._interval) + 1
            bars = await self._read(mark, as_of, self._view.warmup_bars + CHECKED_ROWS + n_since)
        n_rows = 0
        bars = {symbol: of for symbol, of in bars.items() if len(of)}
        if not bars:
            return Loaded(None, 0)
        panel = await attach_stored(Panel.align(bars), self._ticks, self._market_id, self._view)
        closes_us = panel.closes_at.astype(np.int64)
        first = 0 if begin_us is None else int(np.searchsorted(closes_us, begin_us, side="right"))
        for begin in range(first, len(panel), STEP_ROWS):
            end = min(len(panel), begin + STEP_ROWS)
            step = partial(self._step, panel, begin, end, bars, as_of, assume_available_at_close)
            n_rows += await self._in_thread(step)
        return Loaded(
            up_to=to_datetime(panel.closes_at[-1]),
            n_rows=n_rows,
            corrected_from=None if corrected_us is None else to_datetime(np.datetime64(corrected_us, "us")),
        )

    async def _read(self, mark: _Mark | None, as_of: datetime, n_before: int) -> dict[str, Bars]:
        """The bars after the mark and `n_before` of each symbol before it; all of them without a mark."""
        if mark is None:
            end = as_of - self._interval + timedelta(microseconds=1)
            return {s: await self._read_bars(s, None, end) for s in self._symbols}
        # Bars that open before this one closed by the mark.
        edge = to_datetime(np.datetime64(mark.up_to_us, "us"))
        before = await self._ticks.read_tail(self._market_id, self._symbols, self._interval, n_before, edge)
        end = as_of - self._interval + timedelta(microseconds=1)
        return {s: before[s].then(await self._read_bars(s, edge, end)) for s in self._symbols}

    async def _read_bars(self, symbol: str, start: datetime | None, end: datetime) -> Bars:
        return await self._ticks.read_bars(self._market_id, symbol, self._interval, start, end)

    def _step(
        self,
        panel: Panel,
        begin: int,
        end: int,
        bars: Mapping[str, Bars],
        as_of: datetime,
        is_reconstructed: bool,
    ) -> int:
        """Rows [begin, end) of the panel, and the labels that they make known, in one write."""
        up_to_us = int(panel.closes_at[end - 1].astype(np.int64))
        mark = _Mark(
            self._view.version,
            self._symbols,
            self._interval.total_seconds(),
            up_to_us,
            _digests(bars, up_to_us, self._view.warmup_bars + CHECKED_ROWS),
        )
        batch = self._store.write(
            step_rows(self._view, panel, begin, end, self._horizons_bars),
            reason=f"bars of the tick store up to {as_of.isoformat()}",
            is_reconstructed=is_reconstructed,
            marks={self._mark_name: mark.text()},
            same_within=SAME_WITHIN,
        )
        return batch.n_rows

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    @property
    def _mark_name(self) -> str:
        return f"loaded:{self._view.name}"

    async def _mark(self) -> _Mark | None:
        """How far the history of this view, these symbols and this interval is; None where it begins anew."""
        text = await self._in_thread(partial(self._store.mark, self._mark_name))
        if text is None:
            return None
        fields = json.loads(text)
        mark = _Mark(**(fields | {"symbols": tuple(fields["symbols"])}))
        wanted = (self._view.version, self._symbols, self._interval.total_seconds())
        # Features across symbols are other ones among other symbols.
        return mark if (mark.view_version, mark.symbols, mark.interval_s) == wanted else None


def step_rows(
    view: FeatureView, panel: Panel, begin: int, end: int, horizons_bars: Sequence[int]
) -> list[Rows]:
    """The history's rows of the panel's rows [begin, end), and the labels of those and of what they complete.

    Reads the warm-up before them and the future that labels need, so it may be called for each step alone, in
    any order and anywhere: it gives the same bytes.
    """
    reach = max(horizons_bars) + 1
    labelled = max(0, begin - reach)
    lead = max(0, labelled - view.warmup_bars)
    cut = panel.rows(slice(lead, min(len(panel), end + reach)))
    features = compute(view, cut)
    closes_at = cut.closes_at
    rows = []
    series = Series.of_view(view)
    for column, symbol in enumerate(panel.symbols):
        # Every bar has its row, also one whose features are all missing: that is known of it.
        kept = np.arange(begin - lead, end - lead)
        kept = kept[~np.isnan(cut.close[kept, column])]
        if len(kept):
            rows.append(Rows(series, symbol, closes_at[kept], closes_at[kept], features[kept, column]))
    vol_slow = features[:, :, view.index("vol_slow")]
    for horizon_bars in horizons_bars:
        labels = forward_returns(cut, vol_slow, horizon_bars)
        for column, symbol in enumerate(panel.symbols):
            kept = np.arange(labelled - lead, end - lead)
            kept = kept[np.isfinite(labels.values[kept, column])]
            if len(kept):
                rows.append(
                    Rows(
                        Series.of_label(label_name(horizon_bars)),
                        symbol,
                        closes_at[kept],
                        labels.available_at[kept],
                        labels.values[kept, column, None],
                    )
                )
    return rows


def _digests(bars: Mapping[str, Bars], up_to_us: int, n_rows: int) -> Digests:
    """CRC of the bars of each whole day that closed by then, of the newest `n_rows` of each symbol."""
    digests: Digests = {}
    for symbol, of in bars.items():
        known = of.closed_by(to_datetime(np.datetime64(up_to_us, "us"))).tail(n_rows)
        if not len(known):
            continue
        days = known.ts.astype("datetime64[D]")
        edges = [0, *(np.flatnonzero(days[1:] != days[:-1]) + 1).tolist(), len(days)]
        fields = [getattr(known, name) for name in ("ts", *FIELDS)]
        digests[symbol] = {
            str(days[first]): zlib.crc32(b"".join(field[first:last].tobytes() for field in fields))
            for first, last in pairwise(edges)
        }
    return digests


def _first_change(mark: _Mark, bars: Mapping[str, Bars]) -> int | None:
    """Beginning of the first day whose bars are not those that were loaded. None where all are."""
    first: str | None = None
    now = _digests(bars, mark.up_to_us, max(map(len, bars.values()), default=0))
    for symbol in bars:
        then, found = mark.digests.get(symbol, {}), now.get(symbol, {})
        # The oldest day of a window may be cut.
        known_from = max(min(then, default=""), min(found, default=""))
        for day in sorted(then.keys() | found.keys()):
            if day > known_from and then.get(day) != found.get(day) and (first is None or day < first):
                first = day
    return None if first is None else int(np.datetime64(first, "us").astype(np.int64))


def _us(interval: timedelta) -> int:
    return interval // timedelta(microseconds=1)
