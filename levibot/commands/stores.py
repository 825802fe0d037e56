"""`migrate`: the tables of the tick store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from levibot.commands.shared import JsonFlag, end_in_order, load_settings, say

if TYPE_CHECKING:
    from levibot.stores.migrations import Plan

DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run, and change nothing")]


def migrate(dry_run: DryRun = False, as_json: JsonFlag = False) -> None:
    """Bring the tables of the tick store up to date. Starts the embedded stores for it if nothing runs."""
    from levibot.launch.run_record import read_record
    from levibot.stores.connect import open_ticks
    from levibot.stores.embedded import EmbeddedServers
    from levibot.stores.migrations import Plan

    settings = load_settings()
    record = read_record(settings.home)
    servers = EmbeddedServers(settings) if record is None or record.launcher is None else None

    async def planned() -> Plan:
        ticks = await open_ticks(settings)
        try:
            plan = await ticks.plan_migration()
            if dry_run:
                return plan
            applied = await ticks.migrate()
            # Another caller may have come between.
            return Plan(plan.engine, tuple(m for m in plan.new if m.name in applied))
        finally:
            await ticks.close()

    end_in_order()
    try:
        if servers is not None:
            servers.start()
        plan = asyncio.run(planned())
    finally:
        if servers is not None:
            servers.stop()
    say(as_json, _record(plan, dry_run), _text(plan, dry_run))


def _record(plan: Plan, dry_run: bool) -> dict[str, Any]:
    files = [
        {"name": m.name, "engine": m.engine or "all", "checksum": m.checksum, "sql": m.sql} for m in plan.new
    ]
    return {"dry_run": dry_run, "engine": plan.engine, "migrations": files}


def _text(plan: Plan, dry_run: bool) -> str:
    if not plan.new:
        return f"The tables are up to date (engine: {plan.engine})."
    done = "would run" if dry_run else "applied"
    lines = [f"{len(plan.new)} {done} (engine: {plan.engine}), all in one transaction:"]
    for migration in plan.new:
        lines.append(f"\n-- {migration.name}, for {migration.engine or 'every'} engine, {migration.checksum}")
        if dry_run:
            lines.append(migration.sql.rstrip())
    return "\n".join(lines)
