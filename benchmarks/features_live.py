"""One new bar: all features of one symbol, and of 20 symbols in one call beside 20 calls.

`python -m benchmarks.features_live [--json] [--quick]`. A call takes the bars into the live window and
computes the newest row of every feature, by the `Tail` that the online features run too. No side series is
on but where a figure says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from benchmarks.features_market import random_market
from levibot.features.live import LiveWindow
from levibot.features.view import FeatureView
from levibot.features.views import VIEWS
from levibot.market.bars import Bar, Panel, to_datetime, to_datetime64

N_SYMBOLS = 20
N_BARS, QUICK_BARS = 400, 40


def bars_of(panel: Panel, rows: range) -> list[list[Bar]]:
    """The bars of each row."""
    fields = (panel.open, panel.high, panel.low, panel.close, panel.volume)
    return [
        [
            Bar(symbol, panel.interval, to_datetime(panel.ts[row]), *(float(f[row, column]) for f in fields))
            for column, symbol in enumerate(panel.symbols)
        ]
        for row in rows
    ]


def window_of(view: FeatureView, panel: Panel, n_new: int) -> tuple[LiveWindow, list[list[Bar]]]:
    """A full window that lacks the newest `n_new` rows, and these rows."""
    window = LiveWindow(view, panel.symbols, panel.interval, side_series=tuple(panel.extra))
    window.load(panel.rows(slice(0, len(panel) - n_new)))
    return window, bars_of(panel, range(len(panel) - n_new, len(panel)))


def timed(window: LiveWindow, new: Sequence[Sequence[Bar]]) -> list[float]:
    """Milliseconds of each call. The side series of the window, if any, get a value each."""
    out = []
    for bars in new:
        start = time.perf_counter()
        window.put(bars)
        for name in window.panel.extra:
            window.put_side(name, bars[0].symbol, to_datetime64(bars[0].ts), bars[0].volume * 1e-6)
        window.features()
        out.append((time.perf_counter() - start) * 1e3)
    return out


def together(view: FeatureView, panel: Panel, n_new: int) -> Mapping[str, float]:
    """All symbols in one call."""
    window, new = window_of(view, panel, n_new)
    return {"all_symbols_p50_ms": float(np.median(timed(window, new)))}


def one_by_one(view: FeatureView, panel: Panel, n_new: int) -> Mapping[str, float]:
    """Each symbol in a window of its own, one call after the other."""
    calls = []
    for column in range(len(panel.symbols)):
        window, new = window_of(view, panel.columns(slice(column, column + 1)), n_new)
        calls.append(timed(window, new))
    return {"all_symbols_p50_ms": float(np.median(np.sum(calls, axis=0)))}


def one_symbol(view: FeatureView, panel: Panel, n_new: int) -> Mapping[str, float]:
    """One symbol alone, without side series and with all that the view reads."""
    alone = panel.columns(slice(0, 1))
    calls = timed(*window_of(view, alone, n_new))
    sides = replace(alone, extra=dict.fromkeys(view.side_series, alone.volume * 1e-6))
    return {
        "one_symbol_p50_ms": float(np.median(calls)),
        "one_symbol_p99_ms": float(np.quantile(calls, 0.99)),
        "with_side_series_p50_ms": float(np.median(timed(*window_of(view, sides, n_new)))),
    }


def main() -> None:
    options = arguments(__doc__ or "")
    n_new = QUICK_BARS if options.quick else N_BARS
    view = max(VIEWS, key=lambda view: len(view.features))
    panel = random_market(view.warmup_bars + n_new + 1, N_SYMBOLS)
    start = time.perf_counter()
    LiveWindow(view, panel.symbols, panel.interval)
    prepare_s = time.perf_counter() - start
    result = compare(
        "features_live",
        lambda: {**one_symbol(view, panel, n_new), **together(view, panel, n_new // 4)},
        lambda: one_by_one(view, panel, n_new // 4),
        what=f"{N_SYMBOLS} calls of one symbol each",
        goal={
            "one_symbol_p50_ms": ("<=", 3.0),
            "one_symbol_p99_ms": ("<=", 10.0),
            "all_symbols_p50_ms": ("<=", 1.0),
        },
        repeats=QUICK_REPEATS if options.quick else REPEATS,
        packages=["numpy", "numba"],
        notes={
            "view": view.name,
            "n_features": len(view.features),
            "window_bars": view.warmup_bars + 1,
            "prepare_s": prepare_s,
        },
    )
    report(result, as_json=options.json)


if __name__ == "__main__":
    main()
