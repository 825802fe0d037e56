"""A disk of a few KiB that is soon full, and may get room again."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest


class SmallDisk:
    """A file system of its own at `folder`, for the block. Skips the test where none may be mounted."""

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self.folder = folder
        self._n_bytes = n_bytes
        self._ballast = folder / "ballast"

    def __enter__(self) -> Self:
        mount = shutil.which("mount")
        command = [str(mount), "-t", "tmpfs", "-o", f"size={self._n_bytes}", "levibot-test", str(self.folder)]
        if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a small disk")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self) -> None:
        """Take what room is left."""
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        """Give that room again."""
        self._ballast.unlink()
