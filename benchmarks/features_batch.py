"""All features over a long history of many symbols, beside TA-Lib's C code for 30 standard indicators.

`python -m benchmarks.features_batch [--json] [--quick]`. One thread on both sides. A feature and bar is one
value of our result, and one value of one of TA-Lib's output arrays.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import talib

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from benchmarks.features_market import random_market
from levibot.features.engine import compute, compute_stretches
from levibot.features.view import FeatureView
from levibot.features.views import VIEWS
from levibot.market.bars import FloatArray, Panel

N_SYMBOLS, N_ROWS, QUICK_ROWS = 20, 50_000, 5_000
# Each stretch also computes the warm-up before it; two are in memory while the next one is made.
STRETCH_ROWS = 10_000

METRICS = ("ns_per_feature_and_bar", "fresh_ns_per_feature_and_bar", "stretches_ns_per_feature_and_bar")

# TA-Lib's name of each indicator, the fields it reads, and its parameters where they are not the usual ones.
INDICATORS: Sequence[tuple[str, str, Mapping[str, int]]] = (
    ("SMA", "c", {"timeperiod": 24}),
    ("EMA", "c", {"timeperiod": 24}),
    ("WMA", "c", {"timeperiod": 24}),
    ("DEMA", "c", {"timeperiod": 24}),
    ("KAMA", "c", {"timeperiod": 24}),
    ("MACD", "c", {}),
    ("PPO", "c", {}),
    ("TRIX", "c", {}),
    ("RSI", "c", {}),
    ("CMO", "c", {}),
    ("ROC", "c", {}),
    ("MOM", "c", {}),
    ("STOCH", "hlc", {}),
    ("WILLR", "hlc", {}),
    ("CCI", "hlc", {}),
    ("ULTOSC", "hlc", {}),
    ("ADX", "hlc", {}),
    ("AROON", "hl", {}),
    ("SAR", "hl", {}),
    ("LINEARREG_SLOPE", "c", {}),
    ("BBANDS", "c", {"timeperiod": 20}),
    ("STDDEV", "c", {"timeperiod": 20}),
    ("ATR", "hlc", {}),
    ("NATR", "hlc", {}),
    ("OBV", "cv", {}),
    ("AD", "hlcv", {}),
    ("ADOSC", "hlcv", {}),
    ("MFI", "hlcv", {}),
    ("MAX", "c", {}),
    ("MIN", "c", {}),
)


def reference(panel: Panel) -> Mapping[str, float]:
    """TA-Lib on the same bars, symbol by symbol, as it wants them."""
    fields = {
        "h": np.ascontiguousarray(panel.high.T),
        "l": np.ascontiguousarray(panel.low.T),
        "c": np.ascontiguousarray(panel.close.T),
        "v": np.ascontiguousarray(panel.volume.T),
    }
    n_values = 0
    start = time.perf_counter()
    for name, letters, parameters in INDICATORS:
        run = getattr(talib, name)
        for series in zip(*(fields[letter] for letter in letters), strict=True):
            result = run(*series, **parameters)
            n_values += sum(map(len, result)) if isinstance(result, tuple) else len(result)
    ns = (time.perf_counter() - start) / n_values * 1e9
    return {
        "ns_per_feature_and_bar": ns,
        "fresh_ns_per_feature_and_bar": ns,
        "stretches_ns_per_feature_and_bar": ns,
    }


def ours(view: FeatureView, panel: Panel, out: FloatArray) -> Mapping[str, float]:
    """`compute` into memory that is there, as TA-Lib finds it on its heap; into new memory; in stretches."""
    seconds = {}
    start = time.perf_counter()
    compute(view, panel, out)
    seconds["ns_per_feature_and_bar"] = time.perf_counter() - start
    start = time.perf_counter()
    compute(view, panel)
    seconds["fresh_ns_per_feature_and_bar"] = time.perf_counter() - start
    start = time.perf_counter()
    for _rows, _values in compute_stretches(view, panel, STRETCH_ROWS):
        pass
    seconds["stretches_ns_per_feature_and_bar"] = time.perf_counter() - start
    return {name: value / out.size * 1e9 for name, value in seconds.items()}


def peak_memory_mb(view: FeatureView, n_rows: int, *, in_stretches: bool) -> float:
    """Largest resident memory of a process of its own that does only this, less that of its bars."""
    flag = "stretches" if in_stretches else "whole"
    command = [sys.executable, "-m", "benchmarks.features_batch", "--memory-of", view.name, str(n_rows), flag]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _print_memory(view_name: str, n_rows: int, how: str) -> None:
    view = next(view for view in VIEWS if view.name == view_name)
    compute(view, random_market(200, 2))
    panel = random_market(n_rows, N_SYMBOLS)
    before = _peak_kb()
    if how == "whole":
        compute(view, panel)
    else:
        for _ in compute_stretches(view, panel, STRETCH_ROWS):
            pass
    sys.stdout.write(str((_peak_kb() - before) / 1024.0))


def _peak_kb() -> int:
    """High-water mark of this process; getrusage would keep that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def main() -> None:
    if "--memory-of" in sys.argv:
        _print_memory(sys.argv[2], int(sys.argv[3]), sys.argv[4])
        return
    options = arguments(__doc__ or "")
    n_rows = QUICK_ROWS if options.quick else N_ROWS
    panel = random_market(n_rows, N_SYMBOLS)
    view = max(VIEWS, key=lambda view: len(view.features))
    # Compiled, and the memory there, before the clock runs.
    out = compute(view, panel)
    result = compare(
        "features_batch",
        lambda: ours(view, panel, out),
        lambda: reference(panel),
        what=f"TA-Lib's C code, {len(INDICATORS)} indicators, one thread",
        goal={"ns_per_feature_and_bar": ("<=", 1.5)},
        repeats=QUICK_REPEATS if options.quick else REPEATS,
        packages=["numpy", "numba", "TA-Lib"],
        notes={
            "view": view.name,
            "n_features": len(view.features),
            "n_bars": n_rows * N_SYMBOLS,
            "result_mb": len(view.features) * n_rows * N_SYMBOLS * 8 / 2**20,
            "peak_whole_mb": peak_memory_mb(view, n_rows, in_stretches=False),
            "peak_stretches_mb": peak_memory_mb(view, n_rows, in_stretches=True),
            "stretch_rows": STRETCH_ROWS,
        },
    )
    report(result, as_json=options.json)


if __name__ == "__main__":
    main()
