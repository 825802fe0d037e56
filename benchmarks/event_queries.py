"""What the ten queries on the events read, on the table of version 0.1.0 and on today's.

`python -m benchmarks.event_queries --write-docs` writes the table in docs/operations/clickhouse.md.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.event_table import DAYS, Asked, EventTable, Reading, granule_rows

PAGE = Path(__file__).parents[1] / "docs" / "operations" / "clickhouse.md"
N_ROWS, QUICK_ROWS = 5_000_000, 300_000
BEGIN, END = "<!-- event-queries: begin -->", "<!-- event-queries: end -->"


@dataclass(frozen=True, slots=True)
class Compared:
    """One query on both tables."""

    asked: Asked
    before: Reading
    after: Reading


def compare(table: EventTable) -> list[Compared]:
    """Each of the ten queries, before and after."""
    return [
        Compared(
            asked, table.reading(asked.before, asked.parameters), table.reading(asked.after, asked.parameters)
        )
        for asked in table.queries()
    ]


def as_markdown(rows: list[Compared], n_rows: int, granules: tuple[int, int, int]) -> str:
    """The table of the page. granules: rows of one, in the old table, today's, and its lists."""
    lines = [
        f"{n_rows:,} events of {DAYS} days. A granule of the table of version 0.1.0 has {granules[0]:,} "
        f"rows, one of today's {granules[1]:,}, one of its lists {granules[2]:,}.",
        "",
        "| | query | asked by | before: parts, granules | rows read | now: parts, granules | rows read |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(rows, 1):
        before, after = row.before, row.after
        lines.append(
            f"| {number} | {row.asked.name} | `{row.asked.by}` "
            f"| {before.parts}, {before.granules} | {before.n_rows:,} "
            f"| {after.parts}, {after.granules} | {after.n_rows:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: does it run at all")
    parser.add_argument("--write-docs", action="store_true", help=f"put the table into {PAGE.name}")
    given = parser.parse_args()
    n_rows = QUICK_ROWS if given.quick else N_ROWS
    with tempfile.TemporaryDirectory(prefix="levibot-events-") as folder:
        table = EventTable(Path(folder), n_rows)
        try:
            before, today, lists = (
                granule_rows(table.client, name) for name in ("events_before", "events", "events_listed")
            )
            text = as_markdown(compare(table), n_rows, (before, today, lists))
        finally:
            table.close()
    sys.stdout.write(text + "\n")
    if given.write_docs:
        page = PAGE.read_text()
        pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
        PAGE.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", page))


if __name__ == "__main__":
    main()
