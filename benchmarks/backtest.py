"""Target positions in, equity out: 10 symbols by a million bars, against vectorbt's fastest path.

Ours gives the equity of every account on every bar. The reference is the bare kernel of vectorbt-rust, which
gives order records and no equity; what its users call, and a loop with the same arithmetic and nothing else,
stand in the notes. Final equity must agree with vectorbt's to 1e-9, or this is no measure.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np
from numba import njit

from benchmarks.comparison import QUICK_REPEATS, REPEATS, arguments, compare, report
from levibot.errors import LeviBotError
from levibot.market.bars import FloatArray
from levibot.trading.backtest import START_EQUITY, simulate, simulate_each
from levibot.trading.costs import Costs

VECTORBT = ("vectorbt==1.2.0", "vectorbt-rust==1.2.0")
ORDERS = Path(__file__).parent / "vectorbt" / "orders.py"
INSTALL_TIMEOUT_S = 900
N_SYMBOLS, N_BARS, N_BARS_QUICK = 10, 1_000_000, 20_000
FEE_BPS = 10.0
MOST_DIFFERENCE = 1e-9


def main() -> None:
    args = arguments(__doc__ or "")
    price, targets = _market(N_BARS_QUICK if args.quick else N_BARS)
    repeats = QUICK_REPEATS if args.quick else REPEATS
    with tempfile.TemporaryDirectory() as folder, _Vectorbt(Path(folder), price, targets) as theirs:
        costs = Costs(fee_bps=FEE_BPS, slippage_bps=0.0)
        apart, together = _equity(price, targets, costs)
        # Before anything is timed: all is compiled, and both say the same.
        difference = {
            "accounts": theirs.difference("kernel rust", apart),
            "shared": theirs.difference("shared_kernel rust", together),
        }
        for name, found in difference.items():
            if not found <= MOST_DIFFERENCE:
                raise LeviBotError(
                    f"The final equity of {name} differs from vectorbt's by {found:.1e} of it: more than "
                    f"{MOST_DIFFERENCE:g}, so this compares two different things."
                )
        bare: list[float] = []

        def ours() -> Mapping[str, float]:
            bare.append(_seconds(lambda: _compiled_loop(targets, price, FEE_BPS * 1e-4, START_EQUITY)))
            shares = targets / N_SYMBOLS
            return {
                "accounts_s": _seconds(lambda: simulate_each(targets, price, price, costs)),
                "shared_s": _seconds(lambda: simulate(shares, price, price, costs)),
            }

        def reference() -> Mapping[str, float]:
            return {"accounts_s": theirs.took("kernel rust"), "shared_s": theirs.took("shared_kernel rust")}

        _compiled_loop(targets[:10], price[:10], FEE_BPS * 1e-4, START_EQUITY)
        result = compare(
            "backtest",
            ours,
            reference,
            what="the bare kernel of vectorbt-rust: order records, no equity",
            goal={"accounts_s": ("<=", 0.5), "shared_s": ("<=", 0.5)},
            repeats=repeats,
            packages=("numba", "numpy"),
            notes={
                "bars": len(price),
                "symbols": N_SYMBOLS,
                "accounts": "an account a symbol; shared: one account, with weights, fees and turnover a bar",
                "largest_relative_difference": difference,
                "vectorbt_versions": theirs.versions,
                "vectorbt_portfolio_and_value_s": theirs.took("portfolio rust"),
                "vectorbt_numba_kernel_s": min(theirs.took("kernel numba") for _ in range(2)),
            },
        )
        result.notes["bare_loop_s"] = median(bare)  # type: ignore[index]
    report(result, as_json=args.json)


def _market(n_bars: int) -> tuple[FloatArray, FloatArray]:
    """Prices and targets (T, S): a random walk, and positions that are redrawn every 500 bars or so."""
    rng = np.random.default_rng(7)
    price = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.001, (n_bars, N_SYMBOLS)), axis=0))
    drawn = rng.choice([-0.5, 0.0, 0.5], (n_bars, N_SYMBOLS))
    is_new = rng.random((n_bars, N_SYMBOLS)) < 1 / 500
    is_new[0] = True
    rows = np.maximum.accumulate(np.where(is_new, np.arange(n_bars)[:, None], 0), axis=0)
    return price, np.take_along_axis(drawn, rows, axis=0)


def _equity(price: FloatArray, targets: FloatArray, costs: Costs) -> tuple[FloatArray, FloatArray]:
    """Final equity of the accounts apart, (S,), and of the one they share, (1,)."""
    shared = simulate(targets / N_SYMBOLS, price, price, costs).equity
    return simulate_each(targets, price, price, costs)[-1], shared[-1:]


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _bare_loop(targets: FloatArray, price: FloatArray, fee: float, start_equity: float) -> FloatArray:
    """The same orders with no gap, band, limit or cost but the fee: how fast it could be at all."""
    n_bars, n = targets.shape
    cash, held, equity = np.full(n, start_equity), np.zeros(n), np.empty((n_bars, n))
    for t in range(n_bars):
        for s in range(n):
            order = targets[t, s] * (cash[s] + held[s] * price[t, s]) / price[t, s] - held[s]
            if order > 0.0 and order * price[t, s] * (1.0 + fee) > cash[s]:
                order = cash[s] / (price[t, s] * (1.0 + fee))
            cash[s] -= order * price[t, s] + abs(order) * price[t, s] * fee
            held[s] += order
            equity[t, s] = cash[s] + held[s] * price[t, s]
    return equity


_compiled_loop = njit(_bare_loop)


class _Vectorbt:
    """A process with vectorbt, which holds the same arrays. State: the process."""

    def __init__(self, folder: Path, price: FloatArray, targets: FloatArray) -> None:
        np.save(folder / "price.npy", price)
        np.save(folder / "targets.npy", targets)
        command = [str(_python()), "-W", "ignore", str(ORDERS), str(folder), str(FEE_BPS * 1e-4)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions: Mapping[str, str] = self._answer()["versions"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def took(self, run: str) -> float:
        """Seconds of one run, `path engine`."""
        return float(self._ask(run)["took_s"])

    def difference(self, run: str, equity: FloatArray) -> float:
        """The largest relative difference between its final equity and ours."""
        return float(np.abs(equity / np.array(self._ask(run)["final_equity"]) - 1.0).max())

    def _ask(self, run: str) -> dict[str, Any]:
        if self._process.stdin is None:
            raise LeviBotError("The process with vectorbt has no input.")
        self._process.stdin.write(run + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise LeviBotError("The process with vectorbt ended: what it said is above.")
        return dict(json.loads(line))


def _python() -> Path:
    """The interpreter of an environment with vectorbt, which is made where there is none."""
    at = Path(tempfile.gettempdir()) / "levibot-vectorbt"
    folder = Path(os.environ.get("LEVIBOT_VECTORBT_VENV", at))
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *VECTORBT]
        subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_S)
    return python


if __name__ == "__main__":
    main()
