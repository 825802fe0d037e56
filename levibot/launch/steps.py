"""How a long command shows what it does: lines and spinners for people, JSON lines for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text


class Steps(Protocol):
    """Says what is being done, how far it is, and what came of it."""

    def step(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """A context manager around one step; gives a function that says what the step is at."""
        ...

    def say(self, text: str, fields: Mapping[str, Any]) -> None:
        """One line, with its fields for machines."""
        ...


class ConsoleSteps:
    """For people: a spinner while a step runs, a tick and the seconds when it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        started = time.monotonic()
        with self._console.status(f"{title} …") as status:
            yield lambda text: status.update(Text.assemble(f"{title} … ", (text, "dim")))
        self._console.print(f"[green]✓[/green] {title} [dim]{time.monotonic() - started:.1f} s[/dim]")

    def say(self, text: str, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 - for machines
        self._console.print(text, highlight=False)


class JsonSteps:
    """For machines: one JSON object a line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        started = time.monotonic()
        said = ""

        def at(text: str) -> None:
            nonlocal said
            if text != said:
                self._write({"step": title, "at": text})
            said = text

        yield at
        self._write({"step": title, "seconds": round(time.monotonic() - started, 3)})

    def say(self, text: str, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 - for people
        self._write(fields)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._console.out(json.dumps(dict(record)), highlight=False)


def progress_of(line: str) -> str:
    """What a line of a job's output says of how far it is; empty when it says nothing of the kind."""
    _, brace, rest = line.partition("{")
    try:
        record = json.loads(brace + rest)
    except ValueError:
        return ""
    if {"done", "total", "step"} <= record.keys():
        return f"{record['done']} of {record['total']}: {record['step']}"
    return str(record.get("event", ""))
