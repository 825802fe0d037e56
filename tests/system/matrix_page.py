"""The section of the page of faults about the whole system: one row a part and fault, as it was seen."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.faults.sections import SYSTEM
from tests.system.callers import TRY_TIMEOUT_S

_HEAD = (
    "Part",
    "Fault",
    "Requests",
    "Failed at first",
    "Failed twice",
    "Wrong",
    "Stale",
    "Back",
    "Slowest answer",
)
_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|", re.MULTILINE)

_TEXT = """\
{head}
Made by `make faults` on {date}, from what that run observed; do not edit it by hand.

How a drill goes: the system as `up` starts it, with two replicas of the Api, on the simulated market at a bar
a second. Callers ask for predictions {rate:g} times a second, whatever becomes of the requests before; each
waits {timeout_s:g} s, and asks once more where it got no answer. After two seconds a part is killed
(SIGKILL), or frozen (SIGSTOP) for {frozen_s:g} s.

- **Failed at first**: no 200 in time. **Failed twice**: nor at the second try; must be 0.
- **Wrong**: an answer of another symbol, with a false age or freshness, with numbers that are none, with two
  values for the same signal, or an error that has not our shape; must be 0.
- **Stale**: answered with the last signal, which says so of itself.
- **Back**: from the kill, or the thaw, to an answer of a bar that closed after it; at most {bound_s:g} s.

{table}

Machine: {cores} cores, load average {load:.1f} at the end.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What one drill showed."""

    part: str
    fault: str
    requests: int
    failed_at_first: int
    failed: int
    wrong: int
    stale: int
    back_s: float
    slowest_s: float

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            *(self.part, self.fault, f"{self.requests:,}"),
            f"{self.failed_at_first} ({self.failed_at_first / self.requests:.2%})",
            *(str(self.failed), str(self.wrong), f"{self.stale / self.requests:.0%}"),
            *(f"{self.back_s:.1f} s", f"{self.slowest_s:.2f} s"),
        )


def render(rows: Sequence[Row], *, rate_per_s: float, frozen_s: float, bound_s: float) -> str:
    """The section."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *(row.cells for row in rows)]
    return _TEXT.format(
        head=SYSTEM,
        date=datetime.now(UTC).date().isoformat(),
        rate=rate_per_s,
        timeout_s=TRY_TIMEOUT_S,
        frozen_s=frozen_s,
        bound_s=bound_s,
        table="\n".join(f"| {' | '.join(cells)} |" for cells in lines),
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
    )


def listed(section: str) -> list[tuple[str, str]]:
    """Part and fault of each row, in the section's order."""
    return [row for row in _ROW.findall(section) if row not in (_HEAD[:2], ("---", "---"))]
