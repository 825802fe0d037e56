"""Where the model registry keeps its files: what a place must offer, and the one that is a folder.

    ROOT/v0001/model.json      the manifest of a version
    ROOT/v0001/<file>          its files
    ROOT/active.json           the newest activation: it names the version that serves
    ROOT/history.jsonl         every activation, one a line
    ROOT/.publish-*            a publish under way, or the leftover of one that crashed; nobody reads it

A version is written beside its place and renamed into it, so that it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from levibot.errors import RegistryError

MANIFEST = "model.json"
ACTIVE = "active.json"
HISTORY = "history.jsonl"
LOCK = ".activate.lock"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a version, as its manifest names it."""

    name: str
    sha256: str
    size_bytes: int


class ModelFiles(Protocol):
    """A place for versions and activations, shared by any number of processes.

    where: for messages. poll_s: how often a follower may ask for the newest activation, 0 for ever so often.
    Every method raises RegistryError when the place refuses or breaks, and StoreUnavailable when it is a
    server that does not answer in time.
    """

    where: str
    poll_s: float

    def versions(self) -> list[str]:
        """The names under which a whole version may lie, in no order; the caller leaves out other names."""
        ...

    def manifest(self, version: str) -> bytes | None:
        """The manifest of a version, None where there is none."""
        ...

    def file(self, version: str, stored: StoredFile) -> bytes | None:
        """One file of a version, None where it is missing. Its content is not checked."""
        ...

    def keyed(self, key: str) -> list[str]:
        """At least the versions that were published under this key; the caller looks into each."""
        ...

    def staged(
        self, files: Mapping[str, bytes], manifest: bytes, key: str | None
    ) -> AbstractContextManager[Callable[[str], bool]]:
        """A version that is stored, but not visible, for the block. key: what `keyed` is to find it by.

        The function of the block makes it visible under a name, whole and at once; False where that name is
        taken.
        """
        ...

    def newest_activation(self) -> bytes | None:
        """The newest activation, None before the first. One small read."""
        ...

    def activations(self) -> list[bytes]:
        """Every activation, oldest first."""
        ...

    def activate(self, entry_after: Callable[[bytes | None], bytes]) -> None:
        """Add the activation that `entry_after` makes of the newest one; none comes between the two."""
        ...


class ModelFolder:
    """The registry's files under one folder, for processes on one file system."""

    poll_s = 0.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def versions(self) -> list[str]:
        with _translated(f"{self.root} cannot be listed"):
            return [path.name for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []

    def manifest(self, version: str) -> bytes | None:
        return self._read(f"{MANIFEST} of version {version}", self.root / version / MANIFEST)

    def file(self, version: str, stored: StoredFile) -> bytes | None:
        return self._read(f"{stored.name} of version {version}", self.root / version / stored.name)

    def keyed(self, key: str) -> list[str]:  # noqa: ARG002 - the manifests are near, and say it themselves
        return self.versions()

    @contextmanager
    def staged(
        self,
        files: Mapping[str, bytes],
        manifest: bytes,
        key: str | None,  # noqa: ARG002
    ) -> Iterator[Callable[[str], bool]]:
        with _translated(f"No version can be written to {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".publish-", dir=self.root))
        try:
            with _translated(f"The version cannot be written to {draft}"):
                for name, data in files.items():
                    _write_durably(draft / name, data)
                _write_durably(draft / MANIFEST, manifest)
                # mkdtemp keeps others out; a published version is for every process that serves.
                draft.chmod(0o755)
                _sync_folder(draft)
            yield lambda version: self._take(draft, version)
        finally:
            # It is gone where it became a version.
            shutil.rmtree(draft, ignore_errors=True)

    def newest_activation(self) -> bytes | None:
        return self._read(ACTIVE, self.root / ACTIVE)

    def activations(self) -> list[bytes]:
        return (self._read(HISTORY, self.root / HISTORY) or b"").splitlines()

    def activate(self, entry_after: Callable[[bytes | None], bytes]) -> None:
        with _translated(f"The activation cannot be written to {self.root}"), self._one_at_a_time():
            entry = entry_after(self.newest_activation())
            handle, draft = tempfile.mkstemp(prefix=".active-", dir=self.root)
            with os.fdopen(handle, "wb") as file:
                _put_durably(file.fileno(), entry)
            Path(draft).chmod(0o644)
            Path(draft).replace(self.root / ACTIVE)
            with (self.root / HISTORY).open("ab") as history:
                _put_durably(history.fileno(), entry + b"\n")
            _sync_folder(self.root)

    def _take(self, draft: Path, version: str) -> bool:
        with _translated(f"Version {version} cannot be written to {self.root}"):
            try:
                # Renaming onto a folder with files fails: of two publishers one has to take another name.
                draft.rename(self.root / version)
            except OSError:
                if not (self.root / version).is_dir():
                    raise
                return False
            _sync_folder(self.root)
        return True

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        # The kernel lets go of it when the process ends, however it ends.
        with (self.root / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, what: str, path: Path) -> bytes | None:
        with _translated(f"{what} cannot be read"):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RegistryError(f"{what}: {exc.strerror or exc}.") from exc


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        _put_durably(file.fileno(), data)


def _put_durably(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
