"""Model versions: written once, checked at every load, one of them active.

A version is a manifest and files. The manifest has the metadata, the SHA-256 and size of every file, the key
and time of its publication, and the SHA-256 of all that. Files are data formats only: LightGBM text, XGBoost
JSON/UBJ, ONNX, safetensors, JSON … They lie in a folder (levibot/stores/model_files.py) or in an S3 bucket
(levibot/stores/model_bucket.py).
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeGuard

from levibot.errors import RegistryError
from levibot.stores.model_files import HISTORY, MANIFEST, ModelFiles, StoredFile

MAX_KEY_CHARACTERS = 200
# Manifests are small and far away: so many are read at once.
PARALLEL_READS = 8

_VERSION = re.compile(r"v[0-9]{4,9}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
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

    published_at: aware UTC, None where it was published before this was kept.
    problem: empty, or why its manifest cannot be trusted; there is no metadata then.
    """

    version: str
    metadata: Mapping[str, Any]
    published_at: datetime | None = None
    problem: str = ""


class Registry:
    """The model versions of one place, shared by any number of processes.

    Every method raises RegistryError when the place refuses or breaks, and StoreUnavailable when it is a
    server that does not answer in time.
    """

    def __init__(self, files: ModelFiles) -> None:
        self.files = files

    def publish(self, metadata: Mapping[str, Any], files: Mapping[str, bytes], key: str | None = None) -> str:
        """Write a new version and return its name; it is stored, but not active.

        metadata: JSON values. files: plain names to contents. key: names this publication; the same content
        under the same key is the same version, however often and by whomever it is published.
        Raises RegistryError when a name is refused, there is no file, the metadata is not JSON, or the key
        stands for another content already.
        """
        if not files:
            raise RegistryError("A version without files is no model.")
        for name in files:
            _check_file_name(name)
        if key is not None and not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise RegistryError(f"A key has 1 to {MAX_KEY_CHARACTERS} characters, not {len(key)}.")
        content = {
            **_content(metadata, files),
            # One of its own also without a caller's: it tells our own publication from another's below.
            "key": uuid.uuid4().hex if key is None else key,
            "published_at": datetime.now(UTC).isoformat(),
        }
        # Before the look at the key: one that takes the next number after it meets us there.
        numbers = self._numbers()
        if key is not None and (version := self._published_as(content, self.files.keyed(key))):
            return version
        with self.files.staged(files, _render(content), key) as take:
            number = numbers[-1] + 1 if numbers else 1
            # Without gaps: whoever publishes the same key at the same moment must meet us at one number.
            while not take(_name(number)):
                # Taken by another publisher, or by us, in a request whose answer was lost.
                if version := self._published_as(content, [_name(number)]):
                    return version
                number += 1
        return _name(number)

    def published_under(self, key: str) -> str | None:
        """The version that was published under a key, None where there is none."""
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            found = list(pool.map(self._keyed, self.files.keyed(key)))
        return next((v for v, manifest in found if manifest is not None and manifest.get("key") == key), None)

    def load(self, version: str) -> ModelVersion:
        """A version with its files, each checked against its checksum. Raises RegistryError."""
        manifest = self._manifest(version)
        files = {}
        for name, entry in manifest["files"].items():
            data = self.files.file(version, StoredFile(name, **entry))
            if data is None:
                raise RegistryError(f"{name} of version {version} is missing.")
            if len(data) != entry["size_bytes"] or _sha256(data) != entry["sha256"]:
                raise RegistryError(f"{name} of version {version} is not what was published.")
            files[name] = data
        return ModelVersion(version, manifest["metadata"], files)

    def activate(self, version: str, reason: str) -> None:
        """Make a version the one that serves, after checking its files. Raises RegistryError."""
        self.load(version)

        def entry_after(newest: bytes | None) -> bytes:
            try:
                replaced = None if newest is None else _activated(newest)
            except RegistryError:
                replaced = None  # a broken pointer is what an activation repairs
            at = datetime.now(UTC).isoformat()
            return json.dumps({"version": version, "reason": reason, "at": at, "replaced": replaced}).encode()

        self.files.activate(entry_after)

    def newest_activation(self) -> tuple[str, str | None]:
        """The SHA-256 of the newest activation, and the version that it names; None where it names none."""
        newest = self.files.newest_activation()
        if newest is None:
            return _sha256(b""), None
        try:
            return _sha256(newest), _activated(newest)
        except RegistryError:
            return _sha256(newest), None  # a broken pointer is what an activation repairs

    def key_of(self, version: str) -> str | None:
        """What a version was published under; None where there is no whole version of that name."""
        manifest = self._keyed(version)[1]
        return None if manifest is None else manifest.get("key")

    def active(self) -> str | None:
        """The version that serves, None before the first activation. One small read."""
        newest = self.files.newest_activation()
        return None if newest is None else _activated(newest)

    def versions(self) -> list[VersionInfo]:
        """Every published version, oldest first. A broken one is in the list, with its problem."""
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            return list(pool.map(self._info, [_name(number) for number in self._numbers()]))

    def history(self) -> list[dict[str, Any]]:
        """Every activation, oldest first: version, reason, at, replaced."""
        entries = []
        for number, line in enumerate(self.files.activations(), start=1):
            try:
                entries.append(json.loads(line))
            except ValueError as exc:
                raise RegistryError(f"Line {number} of {HISTORY} is not JSON.") from exc
        return entries

    def _numbers(self) -> list[int]:
        return sorted(int(name[1:]) for name in self.files.versions() if _VERSION.fullmatch(name))

    def _info(self, version: str) -> VersionInfo:
        try:
            manifest = self._manifest(version)
            at = manifest.get("published_at")
            return VersionInfo(version, manifest["metadata"], None if at is None else _instant(version, at))
        except RegistryError as exc:
            return VersionInfo(version, {}, problem=str(exc))

    def _published_as(self, content: Mapping[str, Any], versions: Iterable[str]) -> str | None:
        """Which of the versions was published under this content's key, None if none was.

        Raises RegistryError when it has another content.
        """
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            found = list(pool.map(self._keyed, versions))
        for version, manifest in found:
            if manifest is None or manifest.get("key") != content["key"]:
                continue
            # Compared as they were written: 1 and 1.0, a tuple and a list are one there or are not.
            if any(_as_text(manifest[part]) != _as_text(content[part]) for part in ("metadata", "files")):
                raise RegistryError(
                    f"The key {content['key']!r} stands for version {version}, which has another content.",
                    hint="Publish it under a key of its own.",
                )
            return version
        return None

    def _keyed(self, version: str) -> tuple[str, dict[str, Any] | None]:
        try:
            return version, self._manifest(version)
        except RegistryError:
            return version, None  # a broken version stands for no key

    def _manifest(self, version: str) -> dict[str, Any]:
        text = self.files.manifest(_checked_version(version))
        if text is None:
            raise RegistryError(f"There is no version {version}.", hint="See `versions()`.")
        broken = f"{MANIFEST} of version {version} is broken"
        try:
            manifest = json.loads(text)
        except ValueError as exc:
            raise RegistryError(f"{broken}: it is not JSON.") from exc
        if not _is_manifest(manifest):
            raise RegistryError(f"{broken}: it lacks metadata, or a file's checksum and size.")
        content = {name: value for name, value in manifest.items() if name != "sha256"}
        if _render(content) != text:
            raise RegistryError(f"{broken}: it is not what was published.")
        for name in content["files"]:
            _check_file_name(name)
        return content


def content_key(metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """A key for `Registry.publish` that stands for exactly this content. Raises RegistryError on no JSON."""
    return f"content:{_sha256(_as_text(_content(metadata, files)).encode())}"


def _content(metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        # There and back: what a manifest says when it is read.
        plain = json.loads(_as_text(dict(metadata)))
    except (TypeError, ValueError) as exc:
        raise RegistryError(f"The metadata cannot be written as JSON: {exc}.") from exc
    entries = {n: {"sha256": _sha256(data), "size_bytes": len(data)} for n, data in files.items()}
    return {"metadata": plain, "files": entries}


def _as_text(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _render(content: dict[str, Any]) -> bytes:
    # One spelling for one content, so that a load compares bytes and no flipped one slips through.
    checksum = _sha256(_as_text(content).encode())
    return json.dumps(content | {"sha256": checksum}, indent=2, allow_nan=False).encode()


def _is_manifest(value: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict) or set(value) - {"key", "published_at"} != {"metadata", "files", "sha256"}:
        return False
    files = value["files"]
    if not isinstance(value["metadata"], dict) or not isinstance(files, dict) or not files:
        return False
    return all(_is_entry(entry) for entry in files.values())


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"sha256", "size_bytes"}:
        return False
    sha256, size_bytes = value["sha256"], value["size_bytes"]
    return isinstance(sha256, str) and bool(_SHA256.fullmatch(sha256)) and isinstance(size_bytes, int)


def _activated(entry: bytes) -> str:
    try:
        version = json.loads(entry)["version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise RegistryError(
            "The newest activation does not name a version.", hint="Activate one again."
        ) from exc
    return _checked_version(version)


def _name(number: int) -> str:
    return f"v{number:04d}"


def _instant(version: str, text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError as exc:
        raise RegistryError(f"Version {version} was published at {text!r}, which is no instant.") from exc


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
