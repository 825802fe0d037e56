"""The drill finds what it looks for, and the page has a row for each drill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.drill import ROOT, Drill
from tests.faults.page import DRILLS, PAGE, Row, listed, render
from tests.faults.sections import split

ROWS = [
    Row("PostgreSQL, bars", "killed", "writers", "0", "0", "1 s", "+0 MB", "fine"),
    Row("A store", "frozen", "writers", "0", "0", "1 s", "+0 MB", "fine"),
]


def test_the_page_has_a_row_for_each_drill(tmp_path: Path) -> None:
    names = tmp_path / "drills.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *DRILLS,
    ]
    subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "LEVIBOT_LIST_FAULTS": str(names), "LEVIBOT_WRITE_FAULTS": ""},
        capture_output=True,
        check=True,
    )
    drills = [tuple(pair) for pair in json.loads(names.read_text())]
    assert len(set(drills)) == len(drills)
    stores, _ = split(PAGE.read_text())
    assert sorted(listed(stores)) == sorted(drills), "make it anew: make faults"


def test_a_page_lists_what_it_was_made_of() -> None:
    assert listed(render(ROWS, {"Python": "3"})) == [("A store", "frozen"), ("PostgreSQL, bars", "killed")]


@pytest.mark.parametrize("cell", ["a | b", "two\nlines", " "])
def test_a_cell_that_breaks_the_table_is_refused(cell: str) -> None:
    with pytest.raises(ValueError, match="no cell of a table"):
        render([Row("P", "f", "d", "0", "0", "1 s", "+0 MB", cell)], {})


def test_the_drill_finds_planted_losses_and_duplicates(tmp_path: Path) -> None:
    observed = Drill("planted", str(tmp_path / "items"), n_writers=1, n_streams=2).writer_killed()
    assert observed.lost > 0
    assert observed.duplicates > 0
