"""The key with which the commands of a state folder ask its own run: made at each start, gone at its end."""

from __future__ import annotations

import os
from pathlib import Path

from levibot.access.api_key import Role
from levibot.access.key_file import KeyFile
from levibot.settings import Settings

NAME = "run"
FILE_NAME = "run.key"


def make_run_key(home: Path) -> str:
    """A new operator key, kept in a file that only its owner can read: who can, could make keys as well."""
    text = KeyFile(home).renew(NAME, Role.OPERATOR)
    path = home / FILE_NAME
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return text


def end_run_key(home: Path) -> None:
    """Take the key of an ended run back."""
    (home / FILE_NAME).unlink(missing_ok=True)
    KeyFile(home).forget(NAME)


def key_of(settings: Settings) -> str | None:
    """The key to ask with: LEVIBOT_API_KEY, or that of the run of this state folder; None without both."""
    if settings.api_key is not None:
        return settings.api_key
    path = settings.home / FILE_NAME
    return path.read_text() if path.is_file() else None
