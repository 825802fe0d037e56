"""`up`, `down`, `status`: the processes of a run."""

from __future__ import annotations

import json
import signal
import time
from typing import Annotated

import typer

from levibot.commands.shared import (
    START,
    EdgeOption,
    JsonFlag,
    PathOption,
    SeedOption,
    SourceOption,
    SymbolsOption,
    console,
    end_in_order,
    load_settings,
    say,
)
from levibot.errors import NotReady, ProcessError

DOWN_TIMEOUT_S = 75.0


def up(
    source: SourceOption = None,
    path: PathOption = None,
    symbols: SymbolsOption = None,
    edge: EdgeOption = None,
    seed: SeedOption = None,
    replay_speed: Annotated[
        float | None, typer.Option("--replay-speed", help="bars a second in a replay (default: 1)")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start everything, serve signals and keep running until Ctrl-C."""
    from levibot.launch.steps import ConsoleSteps, JsonSteps
    from levibot.launch.up import Run

    settings = load_settings(
        source=source, market=path, symbols=symbols, edge=edge, seed=seed, replay_speed=replay_speed
    )
    steps = JsonSteps(console) if as_json else ConsoleSteps(console)
    end_in_order()
    started = time.monotonic()
    run = Run(settings, steps)
    try:
        answer = run.start()
        is_guarded = settings.api_keys == "on"
        key = '-H "authorization: Bearer $LEVIBOT_API_KEY" ' if is_guarded else ""
        curl = (
            f"curl -s {run.http_url}/ai/predict {key}-H 'content-type: application/json' "
            f"-d '{json.dumps({'symbol': settings.symbols[0]})}'"
        )
        shown_once = (
            f"\nYour API key, an operator's. It is shown this once and kept nowhere:\n"
            f"  export LEVIBOT_API_KEY={run.first_key}\n"
            if run.first_key is not None
            else ""
        )
        seconds = time.monotonic() - started
        text = (
            f"\nLeviBot is up after {seconds:.1f} s, source: [bold]{settings.source}[/bold]\n"
            f"  API docs       {run.http_url}/docs\n"
            f"  Ray dashboard  {run.dashboard_url}\n{shown_once}\n"
            f"$ {curl}\n{json.dumps(answer, indent=2)}\n\nCtrl-C stops it."
        )
        fields = {"ready": True, "seconds": seconds, "answer": answer}
        if run.first_key is not None:
            fields["api_key"] = run.first_key
        steps.say(text, fields | {"http_url": run.http_url, "dashboard_url": run.dashboard_url})
        run.watch()
    except KeyboardInterrupt:
        steps.say("\nStopping.", {"stopping": True})
    finally:
        # Once is enough: a second Ctrl-C must not leave half of it running.
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        run.stop()


def down(as_json: JsonFlag = False) -> None:
    """Stop what `up` started from this state folder, and nothing else."""
    from levibot.access.run_key import end_run_key
    from levibot.launch.run_record import (
        ask_to_end,
        end_processes,
        forget_record,
        processes_of,
        read_record,
    )
    from levibot.stores.embedded import EmbeddedServers

    settings = load_settings()
    record = read_record(settings.home)
    if record is None:
        # A command that was killed before it had a run to note may have left its stores.
        left = EmbeddedServers(settings).end_leftovers()
        if not left:
            raise ProcessError(f"Nothing runs from {settings.home}.", hint=START)
        text = f"No run was noted; stopped what was left of the stores: {', '.join(left)}."
        say(as_json, {"stopped": None, "stores": left}, text)
        return
    launcher = record.launcher
    if launcher is not None:
        ask_to_end(launcher)
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while record.launcher is not None:
            if time.monotonic() > deadline:
                raise ProcessError(f"Process {record.pid} has not ended within {DOWN_TIMEOUT_S:.0f} s.")
            time.sleep(0.1)
    else:
        # Its launcher was killed: what it left is told by the run's identity.
        end_processes(processes_of(record.run_id))
        EmbeddedServers(settings).end_leftovers()
        end_run_key(settings.home)
        forget_record(settings.home)
    say(as_json, {"stopped": record.pid}, f"Stopped the run of process {record.pid}.")


def status(as_json: JsonFlag = False) -> None:
    """Say whether a run is up, what it serves and how fresh it is. Exit code 1 when it is not ready."""
    from levibot.launch.run_record import read_record
    from levibot.serving import client

    settings = load_settings()
    record = read_record(settings.home)
    if record is None or record.launcher is None:
        raise NotReady(f"Nothing runs from {settings.home}.", hint=START)
    state = {
        "pid": record.pid,
        "http_url": record.http_url,
        "dashboard_url": record.dashboard_url,
        "source": record.source,
        **client.readiness(record.http_url),
    }
    lines = [f"{name:15} {value}" for name, value in state.items()]
    say(as_json, state, "\n".join(lines))
    if not state["ready"]:
        raise typer.Exit(1)
