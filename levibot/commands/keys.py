"""`keys create`, `list`, `revoke`: who may ask the HTTP face."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from levibot.commands.shared import JsonFlag, load_settings, say

if TYPE_CHECKING:
    from levibot.access.api_key import ApiKey

group = typer.Typer(
    help="API keys of this state folder: make them, look at them, end them. No run is needed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@group.command("create")
def create(
    name: Annotated[str, typer.Argument(help="whose it is, like dashboard")],
    role: Annotated[str, typer.Option("--role", help="reader or operator")] = "reader",
    days: Annotated[
        float | None,
        typer.Option("--days", min=0.0, max=36500.0, help="how long it is valid (default: for ever)"),
    ] = None,
    instead_of: Annotated[
        str | None, typer.Option("--instead-of", help="identity of the key that it replaces: a rotation")
    ] = None,
    overlap_s: Annotated[
        float,
        typer.Option("--overlap", min=0.0, max=2_592_000.0, help="seconds that the replaced key stays valid"),
    ] = 3600.0,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and show it, this once."""
    from levibot.access.api_key import Role
    from levibot.access.key_file import KeyFile
    from levibot.access.run_key import NAME
    from levibot.errors import UsageError

    if name == NAME:
        raise UsageError(f"The name {NAME} is that of a run's own key, which each start makes anew.")
    settings = load_settings()
    try:
        wanted = Role(role)
    except ValueError as exc:
        raise UsageError(f"There is no role {role!r}.", hint="Say reader or operator.") from exc
    settings.home.mkdir(parents=True, exist_ok=True)
    text, key = KeyFile(settings.home).create(
        name,
        wanted,
        life=None if days is None else timedelta(days=days),
        instead_of=instead_of,
        overlap=timedelta(seconds=overlap_s),
    )
    record = {"api_key": text, **_record(key)}
    say(as_json, record, f"{text}\n\nIt is shown this once and kept nowhere. {_line(key)}")


@group.command("list")
def list_keys(as_json: JsonFlag = False) -> None:
    """Show all keys there ever were, never their text."""
    from levibot.access.key_file import KeyFile

    keys = KeyFile(load_settings().home).records()
    text = "\n".join(map(_line, keys)) or "There are no keys."
    say(as_json, {"keys": [_record(key) for key in keys]}, text)


@group.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="as `keys list` shows it")], as_json: JsonFlag = False
) -> None:
    """End a key: the next request with it is refused."""
    from levibot.access.key_file import KeyFile

    key = KeyFile(load_settings().home).revoke(key_id)
    say(as_json, _record(key), f"Revoked {key.key_id} ({key.name}).")


def _record(key: ApiKey) -> dict[str, str | None]:
    expires_at = None if key.expires_at is None else key.expires_at.isoformat()
    return {
        "key_id": key.key_id,
        "name": key.name,
        "role": str(key.role),
        "state": key.state(datetime.now(UTC)),
        "created_at": key.created_at.isoformat(),
        "expires_at": expires_at,
    }


def _line(key: ApiKey) -> str:
    record = _record(key)
    until = record["expires_at"] or "no end"
    return f"{key.key_id}  {record['state']:8} {key.role:9} {key.name:20} until {until}"
