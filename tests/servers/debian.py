"""Finds the programs of Debian's packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# `make test-stores` sets it: what it has installed must be there, so a missing program is no reason to skip.
MUST_EXIST = "LEVIBOT_TEST_DEBIAN"


def debian_program(name: str, *folders: str) -> Path:
    """The program of that name on PATH or in one of the folders.

    Skips the test where it is not installed, and fails it where `make test-stores` promised it.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", *folders])
    found = shutil.which(name, path=path)
    if found is not None:
        return Path(found)
    message = f"{name} is not installed; `make test-stores` does it"
    if os.environ.get(MUST_EXIST):
        pytest.fail(message)
    pytest.skip(message)
