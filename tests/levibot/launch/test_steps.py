"""What a long command says while it works."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from levibot.errors import ProcessError
from levibot.launch.steps import ConsoleSteps, JsonSteps, Steps, progress_of

# What a log line may look like to a reader of markup.
ODD = "[/tmp/x] [bold]loud :smile: " + "long " * 60


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


def console_steps(screen: io.StringIO, *, is_terminal: bool) -> ConsoleSteps:
    return ConsoleSteps(Console(file=screen, force_terminal=is_terminal, width=80, soft_wrap=True))


def json_steps(screen: io.StringIO) -> JsonSteps:
    return JsonSteps(Console(file=screen, width=40))


def records(screen: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in screen.getvalue().splitlines()]


def fail_within(steps: Steps) -> None:
    with steps.step("Training a model") as at:
        at("half way")
        raise ProcessError("It failed.")


def test_json_steps_are_one_object_a_line(screen: io.StringIO) -> None:
    steps: Steps = json_steps(screen)
    with steps.step("Training a model") as at:
        at(ODD)
    steps.say("Up.", {"ready": True, "answer": {"symbol": "BTCUSDT"}})
    first, second, third = records(screen)
    assert first == {"step": "Training a model", "at": ODD}
    assert second.keys() == {"step", "seconds"}
    assert second["seconds"] >= 0.0
    assert third == {"ready": True, "answer": {"symbol": "BTCUSDT"}}


def test_a_failed_json_step_is_never_called_done(screen: io.StringIO) -> None:
    with pytest.raises(ProcessError, match="It failed"):
        fail_within(json_steps(screen))
    assert records(screen) == [{"step": "Training a model", "at": "half way"}]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_step_that_is_done_has_its_tick(screen: io.StringIO, is_terminal: bool) -> None:
    with console_steps(screen, is_terminal=is_terminal).step("Starting the stores"):
        assert "✓" not in screen.getvalue()
    assert "✓" in screen.getvalue()
    assert "Starting the stores" in screen.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_failed_step_has_no_tick(screen: io.StringIO, is_terminal: bool) -> None:
    with pytest.raises(ProcessError, match="It failed"):
        fail_within(console_steps(screen, is_terminal=is_terminal))
    assert "✓" not in screen.getvalue()


def test_what_a_step_is_at_is_shown_as_it_is(screen: io.StringIO) -> None:
    with console_steps(screen, is_terminal=True).step("Training a model") as at:
        at(ODD[:40])
    assert ODD[:24] in screen.getvalue()


def test_people_read_the_text_and_machines_the_fields(screen: io.StringIO) -> None:
    console_steps(screen, is_terminal=False).say("LeviBot is up.", {"ready": True})
    assert screen.getvalue() == "LeviBot is up.\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '(fit pid=7) {"done": 3, "total": 12, "step": "8 bars ahead", "event": "training"}',
            "3 of 12: 8 bars ahead",
        ),
        ('{"event": "bars are read", "rows": 5}', "bars are read"),
        ("2026-01-01 INFO Tailing logs", ""),
        ("{'no': json", ""),
        ("", ""),
    ],
)
def test_progress_is_read_from_a_jobs_log(line: str, said: str) -> None:
    assert progress_of(line) == said
