"""Where the model registry keeps its files: what a place must offer, and the one that is a folder.

    ROOT/v1.2.3/model.json     the manifest of a version
    ROOT/v1.2.3/card.md        what it says, for people
    ROOT/v1.2.3/<file>         its files
    ROOT/.keys/<sha256>        the name under which the key with this checksum is published
    ROOT/active.json           the newest activation: it names the version that serves
    ROOT/history.jsonl         every activation, one a line
    ROOT/.publish-*            a publish under way, or the leftover of one that crashed; nobody reads it

A version is written beside its place and renamed into it, so that it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
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
CARD = "card.md"
ACTIVE = "active.json"
HISTORY = "history.jsonl"
LOCK = ".lock"
KEYS = ".keys"


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

    def claim_of(self, key: str) -> str | None:
        """The name under which this key is, or is to be, published; None before the first claim."""
        ...

    def claim(self, key: str, version: str, *, instead_of: str | None) -> str:
        """Claim a name for a key, and return the one that is claimed now.

        Another's claim stands, unless it is `instead_of`: of two that claim for one key both get one name.
        """
        ...

    def staged(
        self, files: Mapping[str, bytes], card: bytes
    ) -> AbstractContextManager[Callable[[str, bytes], bool]]:
        """Files and their card that are stored, but not visible, for the block.

        The function of the block makes them visible under a name with a manifest, whole and at once; False
        where that name is taken.
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

    def claim_of(self, key: str) -> str | None:
        found = self._read("The name of a key", self.root / KEYS / _key_name(key))
        return None if found is None else found.decode(errors="replace")

    def claim(self, key: str, version: str, *, instead_of: str | None) -> str:
        with _translated(f"No name can be claimed in {self.root}"):
            (self.root / KEYS).mkdir(parents=True, exist_ok=True)
            with self._one_at_a_time():
                claimed = self.claim_of(key)
                if claimed not in (None, instead_of):
                    return str(claimed)
                _replace_durably(self.root / KEYS / _key_name(key), version.encode())
        return version

    @contextmanager
    def staged(self, files: Mapping[str, bytes], card: bytes) -> Iterator[Callable[[str, bytes], bool]]:
        with _translated(f"No version can be written to {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=".publish-", dir=self.root))
        try:
            with _translated(f"The version cannot be written to {draft}"):
                for name, data in files.items():
                    _write_durably(draft / name, data)
                _write_durably(draft / CARD, card)
                # mkdtemp keeps others out; a published version is for every process that serves.
                draft.chmod(0o755)
            yield lambda version, manifest: self._take(draft, version, manifest)
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
            _replace_durably(self.root / ACTIVE, entry)
            with (self.root / HISTORY).open("ab") as history:
                _put_durably(history.fileno(), entry + b"\n")

    def _take(self, draft: Path, version: str, manifest: bytes) -> bool:
        with _translated(f"Version {version} cannot be written to {self.root}"):
            _write_durably(draft / MANIFEST, manifest)
            _sync_folder(draft)
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


def _replace_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, whatever it held before."""
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        _put_durably(file.fileno(), data)
    Path(draft).chmod(0o644)
    Path(draft).replace(path)
    _sync_folder(path.parent)


def _put_durably(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
    os.fsync(handle)


def _key_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
