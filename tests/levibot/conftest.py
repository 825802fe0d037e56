"""The command line, run in this process so that its lines are counted as covered."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from levibot.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def error(self) -> str:
        """The one line that a failed command writes to stderr."""
        (line,) = self.err.splitlines()
        assert line.startswith("levibot: ")
        return line.removeprefix("levibot: ")


Command = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state folder that is not there yet."""
    return tmp_path / "home"


@pytest.fixture
def levibot(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """`levibot <arguments>`, as `python -m levibot` runs it."""
    for name in [name for name in os.environ if name.startswith("LEVIBOT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LEVIBOT_HOME", str(home))
    monkeypatch.setenv("TERMINAL_WIDTH", "100")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["levibot", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        code = ended.value.code
        assert isinstance(code, int)
        return Outcome(code, out, err)

    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield run
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
