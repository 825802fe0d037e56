"""The newest bars of some symbols in memory that is laid out once, and the features of the newest rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import numpy as np

from levibot.errors import UnknownSymbol, UsageError
from levibot.features.tail import Tail
from levibot.features.view import FeatureView
from levibot.market.bars import FIELDS, Bar, FloatArray, Panel, to_datetime64


class LiveWindow:
    """A bounded window of bars that grows at its end and forgets at its beginning.

    Holds the `view.warmup_bars + rows` newest rows: all that the newest `rows` rows of features depend on.
    Two windows' worth of memory is laid out at the start. Rows are written one behind the other, and when the
    end is reached, the newest move to the beginning: a new bar costs no allocation and rarely a copy.
    side_series: names of series beside the bars that formulas read (see `Panel.extra`).
    The constructor compiles the formulas and records them (see `tail`).
    """

    def __init__(
        self,
        view: FeatureView,
        symbols: Sequence[str],
        interval: timedelta,
        *,
        rows: int = 1,
        side_series: Sequence[str] = (),
    ) -> None:
        if rows < 1 or not symbols:
            raise UsageError(
                f"A live window of {rows} rows and {len(symbols)} symbols has nothing to compute.",
                hint="Give at least one of both.",
            )
        self.view = view
        self.symbols = tuple(symbols)
        self.interval = interval
        self.rows = rows
        self._tail = Tail(view, rows)
        self._keep = self._tail.n_rows
        self._column = {symbol: column for column, symbol in enumerate(self.symbols)}
        self._names = (*FIELDS, *side_series)
        self._values = np.full((len(self._names), len(self.symbols), 2 * self._keep), np.nan)
        self._ts = np.empty(2 * self._keep, dtype="datetime64[us]")
        self._first = self._last = 0
        self._compile()

    def __len__(self) -> int:
        """Rows held."""
        return self._last - self._first

    @property
    def panel(self) -> Panel:
        """The rows held. A view of the window's memory: it changes with the next bar."""
        held = slice(self._first, self._last)
        series = {name: self._values[n, :, held].T for n, name in enumerate(self._names)}
        return Panel(
            symbols=self.symbols,
            interval=self.interval,
            ts=self._ts[held],
            open=series.pop("open"),
            high=series.pop("high"),
            low=series.pop("low"),
            close=series.pop("close"),
            volume=series.pop("volume"),
            extra=series,
        )

    def load(self, panel: Panel) -> None:
        """Forget all, and hold the newest rows of `panel`. Raises UsageError on other symbols or interval."""
        if panel.symbols != self.symbols or panel.interval != self.interval:
            raise UsageError(
                f"A window of {len(self.symbols)} symbols in bars of {self.interval} cannot hold a panel of "
                f"{len(panel.symbols)} in bars of {panel.interval}.",
                hint="Symbols, their order and the interval must be the same.",
            )
        newest = panel.tail(self._keep)
        self._first, self._last = 0, len(newest)
        self._ts[: self._last] = newest.ts
        self._values[:, :, : self._last] = np.nan
        for n, name in enumerate(self._names):
            series = getattr(newest, name) if name in FIELDS else newest.extra.get(name)
            if series is not None:
                self._values[n, :, : self._last] = series.T

    def put(self, bars: Iterable[Bar]) -> None:
        """Take finished bars in, in any order; a bar that is held already is replaced.

        A bar older than all that is held by a full window is not needed, and is dropped.
        Raises UnknownSymbol on a symbol and UsageError on an interval that the window does not have.
        """
        for bar in bars:
            if bar.interval != self.interval:
                raise UsageError(
                    f"A bar of {bar.symbol} over {bar.interval} does not fit a window of {self.interval}."
                )
            column = self._column_of(bar.symbol)
            row = self._row(to_datetime64(bar.ts))
            if row is not None:
                values = (bar.open, bar.high, bar.low, bar.close, bar.volume)
                self._values[: len(FIELDS), column, row] = values

    def put_side(self, name: str, symbol: str, ts: np.datetime64, value: float) -> None:
        """Set one value of a side series in the row that opens at `ts`: what was known at the row's close.

        Raises UsageError on a series that the window does not have.
        """
        if name not in self._names[len(FIELDS) :]:
            raise UsageError(f"The window has no side series {name!r}.", hint="Name it when it is made.")
        column = self._column_of(symbol)
        row = self._row(ts)
        if row is not None:
            self._values[self._names.index(name), column, row] = value

    def features(self) -> FloatArray:
        """The newest `rows` rows of features, (rows, S, F); fewer while there are fewer. No bars, no rows."""
        if len(self) == 0:
            return np.empty((0, len(self.symbols), len(self.view.features)))
        return self._tail.compute(self.panel)

    def _compile(self) -> None:
        """Run every formula once over a full window, so that the first bar waits for no compiler.

        Over a window of this shape: a kernel is compiled anew for another layout of its arrays, and a record
        is of one shape.
        """
        hours = np.arange(self._keep)
        self._ts[: self._keep] = np.datetime64("2024-01-01T00:00:00", "us") + hours * np.timedelta64(1, "h")
        # Any prices that move will do.
        self._values[:, :, : self._keep] = 2.0 + np.sin(hours)
        self._last = self._keep
        self.features()
        self._values[:] = np.nan
        self._last = 0

    def _column_of(self, symbol: str) -> int:
        if symbol not in self._column:
            raise UnknownSymbol(f"The window does not hold {symbol}.", hint=f"It holds {self.symbols}.")
        return self._column[symbol]

    def _row(self, ts: np.datetime64) -> int | None:
        """Where the row that opens at `ts` stands, made if need be; None when it is too old to be held."""
        if len(self) == 0 or ts > self._ts[self._last - 1]:
            row = self._last
        else:
            row = self._first + int(np.searchsorted(self._ts[self._first : self._last], ts))
            if self._ts[row] == ts:
                return row
            if row == self._first and len(self) == self._keep:
                return None
        return self._make_row(row - self._first, ts)

    def _make_row(self, place: int, ts: np.datetime64) -> int:
        """A row of NaN at that place of the rows held; later ones move on, and one too many is forgotten."""
        if self._last == len(self._ts):
            held = slice(self._first, self._last)
            n = len(self)
            # The halves do not overlap: no more than `keep` rows are held.
            self._ts[:n] = self._ts[held]
            self._values[:, :, :n] = self._values[:, :, held]
            self._first, self._last = 0, n
        row = self._first + place
        if row < self._last:
            self._ts[row + 1 : self._last + 1] = self._ts[row : self._last].copy()
            self._values[:, :, row + 1 : self._last + 1] = self._values[:, :, row : self._last].copy()
        self._ts[row] = ts
        self._values[:, :, row] = np.nan
        self._last += 1
        if len(self) > self._keep:
            self._first += 1
        return row
