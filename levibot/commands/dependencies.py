"""`dependencies`: what the HTTP face depends on, and what falls back to what."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from levibot.commands.shared import JsonFlag, say
from levibot.errors import ProcessError, UsageError

DRAW_TIMEOUT_S = 30.0


def dependencies(
    drawing: Annotated[
        Path | None,
        typer.Option("--draw", help="write them to FILE.dot, and draw FILE.svg of it with Graphviz"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what answers depend on, how much, and what happens without it."""
    from levibot.resilience.dependencies import DEPENDENCIES, dot

    records = [
        {
            "name": one.name,
            "is_critical": one.is_critical,
            "gives": one.gives,
            "fallback": one.fallback,
            "falls_back_to": list(one.falls_back_to),
            "uses": list(one.uses),
        }
        for one in DEPENDENCIES
    ]
    lines = [
        f"{one.name:16} {'critical' if one.is_critical else '-':9} without it: {one.fallback}"
        for one in DEPENDENCIES
    ]
    if drawing is not None:
        lines.append(f"Drawn: {draw(dot(), drawing)}.")
    say(as_json, {"dependencies": records}, "\n".join(lines))


def draw(text: str, drawing: Path) -> Path:
    """Write the text beside the drawing of it. Raises UsageError on another suffix, ProcessError."""
    if drawing.suffix != ".svg":
        raise UsageError(f"The drawing {drawing} is no .svg file.")
    program = shutil.which("dot")
    if program is None:
        raise ProcessError("There is no program dot.", hint="Install Graphviz: apt install graphviz.")
    done = subprocess.run(
        [program, "-Tsvg"], input=text, capture_output=True, text=True, timeout=DRAW_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise ProcessError(f"dot failed: {done.stderr.strip()[:300]}")
    drawing.with_suffix(".dot").write_text(text)
    drawing.write_text(done.stdout)
    return drawing
