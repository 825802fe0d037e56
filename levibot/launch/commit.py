"""Which state of the source runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

TIMEOUT_S = 10.0


def current_commit() -> str | None:
    """The commit of the clone that this package lies in, with `-dirty` where files differ from it.

    None outside a clone, and where there is no git.
    """
    git = shutil.which("git")
    root = Path(__file__).resolve().parents[2]
    # An installed package may lie inside somebody else's clone.
    if git is None or not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            [git, "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
