"""How far the replay of each market has come, so that a second run goes on from there."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from levibot.errors import ProcessError


def read_position(home: Path, market_id: str) -> datetime | None:
    """Where the market's last run ended, None without one. Raises ProcessError on a broken file."""
    return _read(home).get(market_id)


def write_position(home: Path, market_id: str, reached: datetime) -> None:
    """Note how far the market has come; a reader sees the old note or the new one."""
    positions = _read(home) | {market_id: reached}
    draft = _path(home).with_suffix(".json.new")
    draft.write_text(json.dumps({name: at.isoformat() for name, at in positions.items()}, indent=2))
    draft.replace(_path(home))


def _path(home: Path) -> Path:
    return home / "replay.json"


def _read(home: Path) -> dict[str, datetime]:
    path = _path(home)
    try:
        positions = {n: datetime.fromisoformat(at) for n, at in json.loads(path.read_text()).items()}
        if any(at.tzinfo is None for at in positions.values()):
            raise ValueError("an instant has no time zone")
        return positions
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as exc:
        raise ProcessError(f"{path} cannot be read: {exc}.", hint="Remove it and start again.") from exc
