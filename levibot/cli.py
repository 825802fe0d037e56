"""`python -m levibot …`: starts processes and talks HTTP. Exit code 0 done, 1 failed, 2 a wrong call."""

from __future__ import annotations

import json
import sys
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from levibot import __version__
from levibot.commands import (
    audit,
    backtest,
    dead_letters,
    dependencies,
    features,
    keys,
    market,
    run,
    sources,
    stores,
    trials,
)
from levibot.commands.shared import console
from levibot.errors import LeviBotError, UsageError

app = typer.Typer(
    name="levibot",
    help="Trading signals with honest time. Settings are LEVIBOT_… variables; options win over them.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    run.up,
    run.down,
    run.status,
    market.ingest,
    market.predict,
    sources.sources,
    backtest.backtest,
    audit.audit,
    stores.migrate,
    dependencies.dependencies,
):
    app.command()(command)
app.add_typer(dead_letters.group, name="dead-letters")
app.add_typer(features.group, name="features")
app.add_typer(keys.group, name="keys")
app.add_typer(trials.group, name="trials")


def _version(show: bool) -> None:
    if show:
        console.print(f"levibot {__version__}", highlight=False)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has answered it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Trading signals with honest time."""
    if context.invoked_subcommand is None:
        console.out(context.get_help(), highlight=False)


def main() -> None:
    """Run the command line; an error is one line and an exit code."""
    try:
        code = app(standalone_mode=False)
    except LeviBotError as exc:
        _fail(exc)
    except TyperException as exc:
        _fail(UsageError(" ".join(exc.format_message().split()).rstrip(".") + ".", hint="See --help."))
    except OSError as exc:
        # A full disk, a state folder that may not be written to.
        hint = "Make room or give leave there, or set LEVIBOT_HOME to another folder."
        _fail(LeviBotError(f"{exc.filename or 'The system'}: {exc.strerror or exc}.", hint=hint))
    sys.exit(code if isinstance(code, int) else 0)


def _fail(exc: LeviBotError) -> NoReturn:
    if any(argument.split("=")[0] == "--json" for argument in sys.argv[1:]):
        error = {"error": {"code": exc.code, "message": exc.message, "hint": exc.hint}}
        console.out(json.dumps(error), highlight=False)
    sys.stderr.write(f"levibot: {exc}\n")
    raise SystemExit(2 if isinstance(exc, UsageError) else 1) from exc
