"""What a benchmark says of its measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from benchmarks.comparison import Result, compare, report


def script(*values: float) -> Iterator[Mapping[str, float]]:
    return iter([{"get_p50_us": value} for value in values])


def compared(
    ours: Iterator[Mapping[str, float]], theirs: Iterator[Mapping[str, float]], limit: float
) -> Result:
    return compare(
        "cache",
        lambda: next(ours),
        lambda: next(theirs),
        what="the bare client",
        goal={"get_p50_us": ("<=", limit)},
        repeats=3,
        packages=["redis"],
    )


def test_a_ratio_is_that_of_the_medians() -> None:
    result = compared(script(30.0, 1.0, 3.0), script(2.0, 1.0, 100.0), 1.5)
    assert result.ours == {"get_p50_us": 3.0}
    assert result.reference == {"what": "the bare client", "get_p50_us": 2.0}
    assert result.ratio == {"get_p50_us": 1.5}
    assert result.holds
    assert result.repeats == 3


def test_a_goal_that_is_missed_does_not_hold() -> None:
    assert not compared(script(3.0, 3.0, 3.0), script(2.0, 2.0, 2.0), 1.4).holds


def test_both_sides_go_first_in_turn() -> None:
    order: list[str] = []

    def side(name: str) -> Mapping[str, float]:
        order.append(name)
        return {"x_s": 1.0}

    compare("x", lambda: side("a"), lambda: side("b"), what="b", goal={}, repeats=2, packages=[])
    assert order == ["a", "b", "b", "a"]


def test_a_goal_without_a_reference_is_held_against_our_own_value() -> None:
    result = compare(
        "lag",
        lambda: {"lag_s": 12.0},
        lambda: {"rows_per_s": 1.0},
        what="none",
        goal={"lag_s": ("<=", 10.0)},
        repeats=1,
        packages=[],
    )
    assert not result.holds


def test_a_goal_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="not measured"):
        compare("x", dict, dict, what="x", goal={"a_s": ("<=", 1.0)}, repeats=1, packages=[])


@pytest.mark.parametrize(("limit", "code"), [(1.5, 0), (1.4, 1)])
def test_the_exit_code_says_whether_the_goal_holds(
    limit: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compared(script(3.0, 3.0, 3.0), script(2.0, 2.0, 2.0), limit)
    with pytest.raises(SystemExit) as ended:
        report(result, as_json=True)
    assert ended.value.code == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["holds"] is (code == 0)
    assert printed["goal"] == {"get_p50_us": ["<=", limit]}
    assert set(printed["versions"]) == {"python", "redis"}
