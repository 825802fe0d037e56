"""`model.json`: what a version says of itself, in one spelling that any changed byte gives away."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeGuard

from levibot.errors import RegistryError
from levibot.stores.model_files import CARD, MANIFEST

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Loading one of these runs code that is in the file.
_REFUSED_SUFFIXES = (".pkl", ".pickle", ".joblib")
_PARTS = {"version", "metadata", "files", "key", "published_at"}


def entries(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Checksum and size of each file."""
    return {name: {"sha256": sha256(data), "size_bytes": len(data)} for name, data in files.items()}


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as a manifest gives them back. Raises RegistryError when they are not JSON."""
    try:
        found: dict[str, Any] = json.loads(as_text(dict(metadata)))
    except (TypeError, ValueError) as exc:
        raise RegistryError(f"The metadata cannot be written as JSON: {exc}.") from exc
    return found


def render(content: Mapping[str, Any]) -> bytes:
    """The manifest of a content: a load compares bytes, so that no flipped one slips through."""
    checksum = sha256(as_text(dict(content)).encode())
    return json.dumps({**content, "sha256": checksum}, indent=2, allow_nan=False).encode()


def parse(version: str, text: bytes) -> dict[str, Any]:
    """The content again. Raises RegistryError where it is not what was published as this version."""
    broken = f"{MANIFEST} of version {version} is broken"
    try:
        manifest = json.loads(text)
    except ValueError as exc:
        raise RegistryError(f"{broken}: it is not JSON.") from exc
    if not _is_manifest(manifest):
        raise RegistryError(f"{broken}: it lacks metadata, or a file's checksum and size.")
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    if render(content) != text:
        raise RegistryError(f"{broken}: it is not what was published.")
    if content["version"] != version:
        raise RegistryError(f"{broken}: it is that of version {content['version']}.")
    for name in content["files"]:
        if name != CARD:
            check_file_name(name)
    return content


def says_the_same(manifest: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether two contents are of one model; the card follows from the rest."""
    # Compared as they were written: 1 and 1.0, a tuple and a list are one there or are not.
    return as_text(_model(manifest)) == as_text(_model(content))


def published_at(version: str, manifest: Mapping[str, Any]) -> datetime:
    """When a version was published, aware UTC. Raises RegistryError on what is no instant."""
    text = manifest["published_at"]
    try:
        return datetime.fromisoformat(str(text))
    except ValueError as exc:
        raise RegistryError(f"Version {version} was published at {text!r}, which is no instant.") from exc


def check_file_name(name: str) -> None:
    """Raises RegistryError on a name that no file of a model may have."""
    if not _FILE_NAME.fullmatch(name) or name in (MANIFEST, CARD):
        raise RegistryError(
            f"{name!r} is no file name of a model: letters, digits, '.', '_', '-', no folder."
        )
    if name.lower().endswith(_REFUSED_SUFFIXES):
        raise RegistryError(f"{name!r} is refused: loading it would run code; publish a data format.")


def as_text(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _model(content: Mapping[str, Any]) -> list[Any]:
    return [content["metadata"], {name: of for name, of in content["files"].items() if name != CARD}]


def _is_manifest(value: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(value, dict) or set(value) != _PARTS | {"sha256"}:
        return False
    files = value["files"]
    if not isinstance(value["metadata"], dict) or not isinstance(files, dict) or not files:
        return False
    return all(_is_entry(entry) for entry in files.values())


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"sha256", "size_bytes"}:
        return False
    checksum, size_bytes = value["sha256"], value["size_bytes"]
    return isinstance(checksum, str) and bool(_SHA256.fullmatch(checksum)) and isinstance(size_bytes, int)
