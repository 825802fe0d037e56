"""Model versions on disk: written once, checked at every load, one of them active.

    ROOT/v0001/model.json      metadata, the SHA-256 and size of every file, and the SHA-256 of all that
    ROOT/v0001/<file>          data formats only: LightGBM text, XGBoost JSON/UBJ, ONNX, safetensors, JSON …
    ROOT/active.json           which version serves
    ROOT/history.jsonl         every activation, one a line
    ROOT/.publish-*            a publish under way, or the leftover of one that crashed; nobody reads it

A version is written beside its place and renamed into it, so that it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from levibot.errors import RegistryError

MANIFEST = "model.json"
ACTIVE = "active.json"
HISTORY = "history.jsonl"

_VERSION = re.compile(r"v[0-9]{4,9}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Loading one of these runs code that is in the file.
_REFUSED_SUFFIXES = (".pkl", ".pickle", ".joblib")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A published version whose files have been checked. metadata: as published. files: name to content."""

    version: str
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What a version says of itself; its files have not been read.

    problem: empty, or why its manifest cannot be trusted; there is no metadata then.
    """

    version: str
    metadata: Mapping[str, Any]
    problem: str = ""


class Registry:
    """The model versions under one folder, shared by any number of processes on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
        """Write a new version and return its name; it is on disk, but not active.

        metadata: JSON values. files: plain names to contents.
        Raises RegistryError when a name is refused, there is no file, or the metadata is not JSON.
        """
        if not files:
            raise RegistryError("A version without files is no model.")
        for name in files:
            _check_file_name(name)
        try:
            entries = {n: {"sha256": _sha256(data), "size_bytes": len(data)} for n, data in files.items()}
            manifest = _render({"metadata": dict(metadata), "files": entries})
        except (TypeError, ValueError) as exc:
            raise RegistryError(f"The metadata cannot be written as JSON: {exc}.") from exc
        self.root.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".publish-", dir=self.root))
        try:
            for name, data in files.items():
                _write_durably(draft / name, data)
            _write_durably(draft / MANIFEST, manifest)
            # mkdtemp keeps others out; a published version is for every process that serves.
            draft.chmod(0o755)
            _sync_folder(draft)
            version = self._take_next(draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        _sync_folder(self.root)
        return version

    def load(self, version: str) -> ModelVersion:
        """A version with its files, each checked against its checksum. Raises RegistryError."""
        manifest = self._manifest(version)
        files = {}
        for name, entry in manifest["files"].items():
            try:
                data = (self.root / version / name).read_bytes()
            except OSError as exc:
                raise RegistryError(f"{name} of version {version} cannot be read: {exc.strerror}.") from exc
            if len(data) != entry["size_bytes"] or _sha256(data) != entry["sha256"]:
                raise RegistryError(f"{name} of version {version} is not what was published.")
            files[name] = data
        return ModelVersion(version, manifest["metadata"], files)

    def activate(self, version: str, reason: str) -> None:
        """Make a version the one that serves, after checking its files. Raises RegistryError."""
        self.load(version)
        pointer = {"version": version, "reason": reason, "at": datetime.now(UTC).isoformat()}
        try:
            replaced = self.active()
        except RegistryError:
            replaced = None  # a broken pointer is what an activation repairs
        draft = self._draft_pointer(json.dumps(pointer).encode())
        draft.replace(self.root / ACTIVE)
        line = json.dumps(pointer | {"replaced": replaced}) + "\n"
        with (self.root / HISTORY).open("ab") as history:
            history.write(line.encode())
            history.flush()
            os.fsync(history.fileno())
        _sync_folder(self.root)

    def active(self) -> str | None:
        """The version that serves, None before the first activation. One small read."""
        try:
            text = (self.root / ACTIVE).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise RegistryError(f"{ACTIVE} cannot be read: {exc.strerror}.") from exc
        try:
            version = json.loads(text)["version"]
        except (ValueError, KeyError, TypeError) as exc:
            raise RegistryError(f"{ACTIVE} does not name a version.", hint="Activate one again.") from exc
        return _checked_version(version)

    def versions(self) -> list[VersionInfo]:
        """Every published version, oldest first. A broken one is in the list, with its problem."""
        found = []
        for name in self._names():
            try:
                found.append(VersionInfo(name, self._manifest(name)["metadata"]))
            except RegistryError as exc:
                found.append(VersionInfo(name, {}, str(exc)))
        return found

    def history(self) -> list[dict[str, Any]]:
        """Every activation, oldest first: version, reason, at, replaced."""
        try:
            lines = (self.root / HISTORY).read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(json.loads(line))
            except ValueError as exc:
                raise RegistryError(f"Line {number} of {HISTORY} is not JSON.") from exc
        return entries

    def _names(self) -> list[str]:
        if not self.root.is_dir():
            return []
        names = [p.name for p in self.root.iterdir() if _VERSION.fullmatch(p.name) and p.is_dir()]
        return sorted(names, key=lambda name: int(name[1:]))

    def _take_next(self, draft: Path) -> str:
        while True:
            names = self._names()
            number = int(names[-1][1:]) + 1 if names else 1
            version = f"v{number:04d}"
            try:
                # Renaming onto a folder with files fails: of two publishers one goes on to the next number.
                draft.rename(self.root / version)
            except OSError:
                if not (self.root / version).is_dir():
                    raise
            else:
                return version

    def _manifest(self, version: str) -> dict[str, Any]:
        path = self.root / _checked_version(version) / MANIFEST
        try:
            text = path.read_bytes()
        except FileNotFoundError as exc:
            raise RegistryError(f"There is no version {version}.", hint="See `versions()`.") from exc
        except OSError as exc:
            raise RegistryError(f"{MANIFEST} of version {version} cannot be read: {exc.strerror}.") from exc
        broken = f"{MANIFEST} of version {version} is broken"
        try:
            manifest = json.loads(text)
        except ValueError as exc:
            raise RegistryError(f"{broken}: it is not JSON.") from exc
        if not _is_manifest(manifest):
            raise RegistryError(f"{broken}: it lacks metadata, or a file's checksum and size.")
        content = {"metadata": manifest["metadata"], "files": manifest["files"]}
        if _render(content) != text:
            raise RegistryError(f"{broken}: it is not what was published.")
        for name in content["files"]:
            _check_file_name(name)
        return content

    def _draft_pointer(self, content: bytes) -> Path:
        handle, name = tempfile.mkstemp(prefix=".active-", dir=self.root)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        return Path(name)


def _render(content: dict[str, Any]) -> bytes:
    # One spelling for one content, so that a load compares bytes and no flipped one slips through.
    checksum = _sha256(json.dumps(content, allow_nan=False).encode())
    return json.dumps(content | {"sha256": checksum}, indent=2, allow_nan=False).encode()


def _is_manifest(value: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict) or set(value) != {"metadata", "files", "sha256"}:
        return False
    files = value["files"]
    if not isinstance(value["metadata"], dict) or not isinstance(files, dict) or not files:
        return False
    return all(isinstance(e, dict) and set(e) == {"sha256", "size_bytes"} for e in files.values())


def _checked_version(version: object) -> str:
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise RegistryError(f"{version!r} is no version name; they look like v0001.")
    return version


def _check_file_name(name: str) -> None:
    if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
        raise RegistryError(
            f"{name!r} is no file name of a model: letters, digits, '.', '_', '-', no folder."
        )
    if name.lower().endswith(_REFUSED_SUFFIXES):
        raise RegistryError(f"{name!r} is refused: loading it would run code; publish a data format.")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
