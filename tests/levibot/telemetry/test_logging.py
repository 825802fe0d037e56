"""JSON logs, of a process of their own: the set-up belongs to a whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

SETUP = """
import logging
import structlog
from levibot.telemetry.logging import configure_logging
log = structlog.get_logger("levibot.feed")
configure_logging("INFO", "market_feed")
"""


def lines_of(code: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_is_one_json_object_with_its_time_in_utc() -> None:
    (line,) = lines_of("log.info('bars written', symbol='BTCUSDT', n_bars=3)")
    written = datetime.fromisoformat(line.pop("timestamp"))
    assert written.utcoffset() == UTC.utcoffset(None)
    assert line == {
        "event": "bars written",
        "level": "info",
        "logger": "levibot.feed",
        "n_bars": 3,
        "process": "market_feed",
        "symbol": "BTCUSDT",
    }


def test_an_exception_is_one_line_with_its_type_and_words() -> None:
    (line,) = lines_of("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('failed\\nbadly')")
    assert (line["error_type"], line["error"], line["level"]) == (
        "ZeroDivisionError",
        "division by zero",
        "error",
    )
    assert "Traceback" in line["traceback"]


def test_logs_of_libraries_come_the_same_way() -> None:
    code = """
logging.getLogger("uvicorn.error").warning("port %d is slow", 8000, extra={"client": "a"})
try:
    int("x")
except ValueError:
    logging.getLogger("lib").exception("broken")
"""
    first, second = lines_of(code)
    assert (first["event"], first["logger"], first["client"]) == ("port 8000 is slow", "uvicorn.error", "a")
    assert (first["process"], second["error_type"]) == ("market_feed", "ValueError")


def test_what_lies_below_the_level_is_silent() -> None:
    code = "log.debug('no')\nlogging.getLogger('lib').debug('no')\nlog.info('yes')"
    assert [line["event"] for line in lines_of(code)] == ["yes"]


def test_a_second_set_up_replaces_the_first() -> None:
    (line,) = lines_of("configure_logging('WARNING', 'api')\nlog.info('no')\nlog.warning('once')")
    assert (line["event"], line["process"]) == ("once", "api")


def test_what_json_does_not_know_is_written_as_text() -> None:
    (line,) = lines_of("log.info('odd', value={1, 1}, path=__import__('pathlib').Path('x'), word='µ')")
    assert (line["value"], line["path"], line["word"]) == ("{1}", "x", "µ")
