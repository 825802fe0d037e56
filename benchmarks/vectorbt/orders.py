"""Runs the same targets through vectorbt, in an environment of its own which has it and its compiled kernels.

Reads the folder with the arrays from the command line, then one line a run from standard input: a path of
`_PATHS` and an engine. Answers each with one line of JSON: the seconds it took and the final equity of each
account.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import vectorbt  # type: ignore[import-not-found]
from vectorbt.portfolio import dispatch  # type: ignore[import-not-found]
from vectorbt.portfolio.enums import Direction, SizeType  # type: ignore[import-not-found]

START_EQUITY = 1_000_000.0


def main() -> None:
    folder, fee = Path(sys.argv[1]), float(sys.argv[2])
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("targets", "price")}
    _answer({"versions": {"vectorbt": vectorbt.__version__, "numpy": np.__version__}})
    for line in sys.stdin:
        path, engine = line.split()
        started = time.perf_counter()
        found = _PATHS[path](arrays["targets"], arrays["price"], fee, engine)
        took = time.perf_counter() - started
        _answer({"took_s": took, "final_equity": [float(v) for v in found(arrays["price"])]})
        del found


def _answer(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _kernel(targets: Any, price: Any, fee: float, engine: str) -> Any:
    """The bare simulation of an account a column: order records and nothing else, not even an equity."""
    return _simulated(targets, price, fee, engine, np.ones(targets.shape[1], np.int64))


def _shared_kernel(targets: Any, price: Any, fee: float, engine: str) -> Any:
    """The bare simulation of one account that all columns share, sells before buys."""
    return _simulated(targets / targets.shape[1], price, fee, engine, np.array([targets.shape[1]]))


def _simulated(targets: Any, price: Any, fee: float, engine: str, columns_of_accounts: Any) -> Any:
    n_bars, n = targets.shape
    is_shared = len(columns_of_accounts) < n
    order = np.arange(n) if is_shared else np.zeros(n, np.int64)
    records, _ = dispatch.simulate_from_orders(
        (n_bars, n),
        columns_of_accounts,
        np.full(len(columns_of_accounts), START_EQUITY),
        np.ascontiguousarray(np.broadcast_to(order, (n_bars, n))),
        size=targets,
        price=price,
        size_type=np.asarray(SizeType.TargetPercent),
        direction=np.asarray(Direction.Both),
        fees=np.asarray(fee),
        close=price,
        auto_call_seq=is_shared,
        max_orders=n_bars * n,
        max_logs=1,
        engine=engine,
    )

    def final(close: Any) -> list[float]:
        """From the records, outside of the time."""
        worth = []
        for column in range(n):
            own = records[records["col"] == column]
            sign = np.where(own["side"] == 0, 1.0, -1.0)
            flows = -(sign * own["size"] * own["price"]) - own["fees"]
            # One after the other, as they happened: `sum` adds in another order.
            cash = np.cumsum(np.concatenate(([0.0 if is_shared else START_EQUITY], flows)))[-1]
            worth.append(cash + np.cumsum(sign * own["size"])[-1] * close[-1, column])
        return [START_EQUITY + sum(worth)] if is_shared else worth

    return final


def _portfolio(targets: Any, price: Any, fee: float, engine: str) -> Any:
    """What its users call: a portfolio from orders, and its equity on every bar."""
    value = (
        vectorbt.Portfolio.from_orders(
            price,
            size=targets,
            price=price,
            size_type="targetpercent",
            direction="both",
            fees=fee,
            min_size=0.0,
            init_cash=START_EQUITY,
            engine=engine,
        )
        .value()
        .to_numpy()
    )
    return lambda _: value[-1]


_PATHS = {"kernel": _kernel, "shared_kernel": _shared_kernel, "portfolio": _portfolio}


if __name__ == "__main__":
    main()
