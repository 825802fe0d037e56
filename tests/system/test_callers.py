"""The callers of the fault matrix find what is wrong, over answers that are planted."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults import sections
from tests.system.callers import Seen, Try, calling, wrong_of
from tests.system.matrix_page import Row, listed, render

BODY = {
    "symbol": "BTCUSDT",
    "as_of": "2024-05-01T12:00:00Z",
    "model_version": "v1.0.0",
    "probability_up": 0.6,
    "target_position": 0.1,
    "freshness": "FRESH",
    "feature_age_s": 7200.0,
}
RIGHT = Try("BTCUSDT", 200, BODY, 0.01, 0.25)
ERROR = {"code": "not_ready", "message": "m", "hint": "h", "trace_id": "t"}


@pytest.mark.parametrize(
    "change",
    [
        {"symbol": "ETHUSDT"},
        {"probability_up": 1.1},
        {"target_position": float("nan")},
        {"feature_age_s": 7201.0},
        {"freshness": "STALE"},
        {"as_of": "2024-05-01T12:00:01Z"},
    ],
)
def test_a_planted_wrong_answer_is_found(change: dict[str, Any]) -> None:
    assert wrong_of(RIGHT) == []
    assert len(wrong_of(replace(RIGHT, body=BODY | change))) == 1


@pytest.mark.parametrize("body", [{"detail": "no"}, {"error": {"code": "x"}}])
def test_an_error_without_its_shape_is_wrong(body: dict[str, Any]) -> None:
    assert wrong_of(replace(RIGHT, status=503, body={"error": ERROR})) == []
    assert len(wrong_of(replace(RIGHT, status=503, body=body))) == 1


def test_two_values_of_the_same_signal_are_wrong() -> None:
    other = replace(RIGHT, body=BODY | {"target_position": 0.2})
    later = replace(other, body=other.body | {"as_of": "2024-05-01T13:00:00Z"})
    assert Seen([[RIGHT], [later], [RIGHT]]).wrong() == []
    assert len(Seen([[RIGHT], [later], [other]]).wrong()) == 1


def test_a_request_has_failed_where_its_second_try_has() -> None:
    none = Try("BTCUSDT", 0, {"problem": "refused"}, 3.0, 0.25)
    seen = Seen([[RIGHT], [none, RIGHT], [none, none]])
    assert (seen.failed_at_first, seen.failed, seen.slowest_s) == (2, 1, 0.01)


def test_callers_keep_their_pace_where_nobody_answers() -> None:
    with calling("http://127.0.0.1:1", {}, ("BTCUSDT", "ETHUSDT"), 100.0) as seen:
        time.sleep(0.5)

    assert seen.failed == len(seen.requests) >= 10
    assert {len(tries) for tries in seen.requests} == {2}
    assert {one.symbol for tries in seen.requests for one in tries} == {"BTCUSDT", "ETHUSDT"}


def test_each_section_of_the_page_is_written_without_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "docs" / "faults.md"
    monkeypatch.setattr(sections, "PAGE", page)
    row = Row("Redis", "killed", 1000, 3, 0, 0, 10, 1.26, 0.5)
    system = render([row], rate_per_s=50.0, frozen_s=15.0, bound_s=30.0)
    sections.write(system=system)
    sections.write(stores="# Faults\n\none\n")
    sections.write(stores="# Faults\n\ntwo\n")
    stores, written = sections.split(page.read_text())

    assert (stores, written) == ("# Faults\n\ntwo\n\n", system)
    assert listed(written) == [("Redis", "killed")]
    assert "| 3 (0.30%) | 0 | 0 | 1% | 1.3 s |" in written
