"""docs/features.md says what the definitions say."""

from __future__ import annotations

import os
from pathlib import Path

from levibot.features.catalogue import render
from levibot.features.views import FULL

PAGE = Path(__file__).parents[3] / "docs" / "features.md"


def test_the_page_of_features_is_that_of_the_definitions() -> None:
    if os.environ.get("LEVIBOT_WRITE_FEATURES"):
        PAGE.write_text(render(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == render(), "write it anew with LEVIBOT_WRITE_FEATURES=1"


def test_every_feature_has_a_row_with_all_cells() -> None:
    rows = [line for line in render().splitlines() if line.startswith("| ")]
    for feature in FULL.features:
        row = next(row for row in rows if row.split(" | ")[0].strip("| *") == feature.name)
        cells = row.replace("\\|", "").strip("| ").split(" | ")
        assert len(cells) == 6
        assert all(cells), feature.name
