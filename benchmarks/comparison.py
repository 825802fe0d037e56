"""One shape for every benchmark: ours and the reference, interleaved, medians, and whether the goal holds."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from statistics import median, quantiles
from typing import Any

from levibot.launch.commit import current_commit

REPEATS, QUICK_REPEATS = 5, 1

Measure = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark says. Units are part of a metric's name (`get_p50_us`, `rows_per_s`).

    ours, reference: medians; reference carries `what` it is. ratio: ours / reference of the metrics that both
    have. goal: for a metric, what its ratio (or, where it has none, our value) must keep.
    """

    name: str
    ours: Mapping[str, float]
    reference: Mapping[str, float | str]
    ratio: Mapping[str, float]
    goal: Mapping[str, tuple[str, float]]
    holds: bool
    repeats: int
    load_average: float
    versions: Mapping[str, str]
    git: str
    notes: Mapping[str, Any] = field(default_factory=dict)


def arguments(description: str) -> argparse.Namespace:
    """The command line that all benchmarks share: `--json` and `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="small and once: does it run at all")
    return parser.parse_args()


def compare(
    name: str,
    ours: Measure,
    reference: Measure,
    *,
    what: str,
    goal: Mapping[str, tuple[str, float]],
    repeats: int,
    packages: Sequence[str],
    notes: Mapping[str, Any] | None = None,
) -> Result:
    """Time both, turn about, `repeats` times. what: the reference, in words. goal: metric to ("<=", 1.5)."""
    load = os.getloadavg()[0]
    rows: tuple[list[Mapping[str, float]], list[Mapping[str, float]]] = ([], [])
    for turn in range(repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            rows[side].append((ours, reference)[side]())
    mine, theirs = (_medians(side) for side in rows)
    ratio = {metric: mine[metric] / theirs[metric] for metric in mine if theirs.get(metric)}
    held = [holds(ratio.get(metric, mine.get(metric)), *limit) for metric, limit in goal.items()]
    return Result(
        name=name,
        ours=mine,
        reference={"what": what, **theirs},
        ratio=ratio,
        goal=goal,
        holds=all(held),
        repeats=repeats,
        load_average=load,
        versions=versions(packages),
        git=current_commit() or "",
        notes=notes or {},
    )


def report(result: Result, *, as_json: bool) -> None:
    """Print the result; the exit code says whether the goal holds."""
    record = asdict(result)
    if as_json:
        sys.stdout.write(json.dumps(record) + "\n")
    else:
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
    raise SystemExit(0 if result.holds else 1)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """What it was measured with."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def p95(values: Sequence[float]) -> float:
    """What 95 of 100 of the values are at most."""
    return quantiles(values, n=20, method="inclusive")[-1]


def _medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {metric: median(row[metric] for row in rows) for metric in rows[0]}


def holds(value: float | None, relation: str, limit: float) -> bool:
    """Whether a value keeps its limit. Raises ValueError where there is none."""
    if value is None:
        raise ValueError("The goal names a metric that was not measured.")
    return value <= limit if relation == "<=" else value >= limit
