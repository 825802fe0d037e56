"""The file of found parameters comes back whole, or is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from levibot.errors import DataError
from levibot.learning.search.parameters_file import FoundParameters
from levibot.learning.search.pareto import Score
from levibot.learning.search.space import SPACES

FOUND = FoundParameters(
    SPACES["xgboost"].candidate({**SPACES["xgboost"].defaults, "training.xgboost.depth": 3}),
    "xgboost",
    17,
    Score(1.25, -0.125),
    {"data_hash": "abc", "view": "core", "view_version": "v"},
)


def test_what_was_found_is_read_as_it_was_written(tmp_path: Path) -> None:
    FOUND.write(tmp_path / "found.json")
    read = FoundParameters.read(tmp_path / "found.json")
    assert read == FOUND
    assert read.metadata() == {"study": "xgboost", "study_trial": 17, "study_found_on": FOUND.found_on}
    assert math.isfinite(read.score.net_sharpe)


def test_a_file_that_was_changed_or_is_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    FOUND.write(path)
    content = json.loads(path.read_text())
    content["parameters"]["training.xgboost.depth"] = 4
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="checksum does not hold"):
        FoundParameters.read(path)
    path.write_text(json.dumps(content | {"format": "another"}))
    with pytest.raises(DataError, match="of the format 'another'"):
        FoundParameters.read(path)
    for text in ("[]", "{}", "no JSON"):
        path.write_text(text)
        with pytest.raises(DataError, match="holds no parameters"):
            FoundParameters.read(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        FoundParameters.read(tmp_path / "nowhere")
