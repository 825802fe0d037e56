"""The page of faults: one row a drill, written from what was observed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.subject import TIMEOUT_S

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations" / "faults.md"
BACK_WITHIN_S = 15.0
GROWS_AT_MOST_MB = 32.0
# Where drills stand. A run that writes the page names them all.
DRILLS = ("tests/faults", "tests/contracts/redis/test_failover.py")

_HEAD = ("Part", "Fault", "During", "Lost", "Duplicates", "Back in service", "Memory", "Outcome")
_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|", re.MULTILINE)

_TEXT = """\
# Faults and what becomes of them

Made by `make faults` on {date}, from what that run observed; do not edit it by hand. Every run of the tests
checks that this page has a row for each drill, and repeats the drills with their bounds: `make test` the
killed and frozen stores, the slow tests the rest too.

How a drill goes: real writers, each a process with several streams, write numbered items to the real store
and note each acknowledgement. The store is broken under them and mended again, and then compared with the
notes. Writers repeat what was refused; each call has a time-out of {timeout_s:g} s.

- **Lost**: acknowledged, and not stored. **Duplicates**: stored more than once. Both must be 0.
- **Back in service**: from the store's return to the first acknowledgement of the last stream to get one; at
  most {bound_s:g} s.
- **Memory**: how much the writer that grew most had grown at its peak; at most {bound_mb:g} MB. Where the
  writers themselves were killed there is nothing to compare.

Events with a spool are acknowledged while ClickHouse is away, too: it is back when all that was spooled has
been written. A rate limit keeps no rows; there the count of allowed calls is held to its bound.

S3 is moto's server, which keeps its objects in memory and would lose them if it were killed. So it is frozen,
and what is killed is a process that passes its connections on.

The feature history has no server: its owner is killed, its disk is full, its files are damaged. Damaged they
are while nobody writes; the time is from the file put back to all of it read.

{table}

Versions: {versions}. Machine: {cores} cores, load average {load:.1f} at the end.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What one drill showed, in words. Sorted by part and fault."""

    part: str
    fault: str
    during: str
    lost: str
    duplicates: str
    recovered: str
    memory: str
    outcome: str

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            *(self.part, self.fault, self.during, self.lost),
            *(self.duplicates, self.recovered, self.memory, self.outcome),
        )


def render(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """The whole page. Raises ValueError on a cell that would break the table."""
    ordered = sorted(rows, key=lambda row: (row.part.lower(), row.fault))
    for row in ordered:
        for cell in row.cells:
            if "|" in cell or "\n" in cell or not cell.strip():
                raise ValueError(f"{cell!r} of {row.part}, {row.fault} is no cell of a table.")
    lines = [_HEAD, tuple("---" for _ in _HEAD), *(row.cells for row in ordered)]
    return _TEXT.format(
        date=datetime.now(UTC).date().isoformat(),
        timeout_s=TIMEOUT_S,
        bound_s=BACK_WITHIN_S,
        bound_mb=GROWS_AT_MOST_MB,
        table="\n".join(f"| {' | '.join(cells)} |" for cells in lines),
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
    )


def listed(page: str) -> list[tuple[str, str]]:
    """Part and fault of each row of the page, in its order."""
    head = _HEAD[:2]
    return [row for row in _ROW.findall(page) if row not in (head, ("---", "---"))]
