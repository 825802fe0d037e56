"""The dependencies as code: what they name is there, and the committed drawing is of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from levibot.commands.dependencies import draw
from levibot.errors import UsageError
from levibot.resilience.dependencies import DEPENDENCIES, FACE, dot

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations" / "dependencies.svg"
NAMES = [one.name for one in DEPENDENCIES]


def test_each_has_its_name_and_says_what_happens_without_it() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(one.gives and one.fallback for one in DEPENDENCIES)
    assert {True, False} == {one.is_critical for one in DEPENDENCIES}


def test_every_line_of_the_drawing_joins_two_that_are_there() -> None:
    joined = re.findall(r'"(\w+)" -> "(\w+)"', dot())
    assert len(joined) > len(DEPENDENCIES)
    assert {name for pair in joined for name in pair} == {FACE, *NAMES}


def test_the_committed_drawing_is_of_this_code() -> None:
    assert PAGE.with_suffix(".dot").read_text() == dot(), "run: python -m levibot dependencies --draw " + str(
        PAGE.relative_to(Path(__file__).resolve().parents[3])
    )
    drawn = PAGE.read_text()
    # Graphviz writes each node's name as the title of its group.
    assert set(re.findall(r"<title>(\w+)</title>", drawn)) >= {FACE, *NAMES}


def test_the_drawing_can_be_made_where_graphviz_is(tmp_path: Path) -> None:
    if shutil.which("dot") is None:
        pytest.skip("Graphviz is not installed")
    path = draw(dot(), tmp_path / "map.svg")
    assert path.read_text().count('<g id="node') == len(DEPENDENCIES) + 1


def test_a_drawing_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.svg file"):
        draw(dot(), tmp_path / "map.png")
