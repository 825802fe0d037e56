"""A finished report as people and files get it: a table, and a file that is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.table import Table

from levibot.errors import UsageError

# For a pipe, which has no width that the numbers would have to fit.
PIPE_WIDTH = 120


def check_place(path: Path) -> None:
    """Refuse a place that cannot take a report, before the work rather than after it."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"The folder {folder} for the report does not exist.")
    if path.is_dir():
        raise UsageError(f"The report cannot be written to {path}: it is a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"The folder {folder} for the report cannot be written to.")


def write_report(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half a report."""
    draft = path.with_name(path.name + ".new")
    try:
        try:
            draft.write_text(text)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise UsageError(f"The report cannot be written to {path}: {exc.strerror}.") from exc


def table(record: dict[str, Any], *, is_terminal: bool) -> Table:
    """The figures of a report's JSON, a row a strategy."""
    period = record["period"]
    rows = Table(
        title=f"{record['run']['source']} market, {period['test_start'][:10]} to {period['test_end'][:10]}, "
        f"net of {record['costs']['total_bps']:g} bps a side",
        caption=_count(record["trials"]) + _audited(record.get("audit")),
        width=None if is_terminal else PIPE_WIDTH,
    )
    # A name that is cut off names two strategies.
    rows.add_column("", no_wrap=True, min_width=max(map(len, record["trials"]["strategies"])))
    for column in ("Sharpe", "95 %", "PSR", "deflated", "gross", "drawdown", "turnover/day", "annual"):
        rows.add_column(column, justify="right")
    for name in record["trials"]["strategies"]:
        row = record[name]
        low, high = row["sharpe_ci95"]
        rows.add_row(
            name,
            _number(row["sharpe_net"]),
            f"{_number(low)} … {_number(high)}",
            _number(row["psr"]),
            _number(row["deflated_sharpe"]["probability"]),
            _number(row["sharpe_gross"]),
            _share(row["max_drawdown"]),
            f"{row['turnover_per_day']:.3f}",
            _share(row["annual_return"]),
        )
    return rows


def _count(trials: dict[str, Any]) -> str:
    hold_out, overfitting = trials["hold_out"], trials["overfitting"]
    return (
        f"Trials counted: {trials['counted']}, worth {trials['effective']:.1f} independent ones. "
        f"Probability of overfitting: {_number(overfitting['report']['probability'])} in this report, "
        f"{_number(overfitting['ledger']['probability'])} in the ledger. "
        f"Looks at the hold-out {hold_out['name']!r}: {hold_out['looks']}."
    )


def _audited(audit: dict[str, Any] | None) -> str:
    if audit is None:
        return ""
    if "problem" in audit:
        return f" A net Sharpe ratio above 2 could not be audited: {audit['problem']}"
    broken = [check["name"] for check in audit["checks"] if check["holds"] is False]
    if broken:
        return f" A net Sharpe ratio above 2 was audited, and fails: {', '.join(broken)}."
    return " A net Sharpe ratio above 2 was audited: every limit is kept; `levibot audit --full` asks more."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
