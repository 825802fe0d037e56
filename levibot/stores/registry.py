"""Model versions: written once, checked at every load, one of them active.

A version is a manifest (`model.json`), files, and a card for people (`card.md`). The manifest has the
metadata, the SHA-256 and size of every file, the version's name, the key and time of its publication, and the
SHA-256 of all that. Files are data formats only: LightGBM text, XGBoost JSON/UBJ, ONNX, safetensors, JSON …
They lie in a folder (levibot/stores/model_files.py) or in an S3 bucket (levibot/stores/model_bucket.py).
Names are semantic: levibot/stores/version_name.py says by which rule.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from levibot.errors import RegistryConflict, RegistryError, UnknownVersion
from levibot.stores.model_card import render_card
from levibot.stores.model_files import CARD, HISTORY, MANIFEST, ModelFiles, StoredFile
from levibot.stores.model_manifest import (
    as_text,
    check_file_name,
    entries,
    parse,
    plain,
    published_at,
    render,
    says_the_same,
    sha256,
)
from levibot.stores.version_name import FIRST, change, is_version, numbers, successor

MAX_KEY_CHARACTERS = 200
# Manifests are small and far away: so many are read at once.
PARALLEL_READS = 8


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A published version whose files have been checked.

    metadata, files (name to content): as published. card: Markdown, for people.
    """

    version: str
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]
    card: str


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What a version says of itself; its files have not been read.

    published_at: aware UTC, None beside a problem.
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

        metadata: JSON values. files: plain names to contents; the card is written from the metadata. key:
        names this publication; the same content under the same key is the same version, however often and by
        whomever it is published.
        Raises RegistryError when a name is refused, there is no file, the metadata is not JSON, or the key
        stands for another content already.
        """
        if not files:
            raise RegistryError("A version without files is no model.")
        for name in files:
            check_file_name(name)
        if key is not None and not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise RegistryError(f"A key has 1 to {MAX_KEY_CHARACTERS} characters, not {len(key)}.")
        said, given = plain(metadata), entries(files)
        card = render_card(said, given).encode()
        content = {
            "metadata": said,
            "files": given | entries({CARD: card}),
            # One of its own also without a caller's: it tells our own publication from another's below.
            "key": uuid.uuid4().hex if key is None else key,
            "published_at": datetime.now(UTC).isoformat(),
        }
        claimed = None if key is None else self.files.claim_of(key)
        if claimed is not None and is_version(claimed):
            if self._is_published_as(claimed, content):
                return claimed
            # Of a writer that died, or that is about to take it: we try the same name first.
            claimed = None
        # Before the upload: a place that does not answer is to say so at once.
        name = self._name_for(said, key, instead_of=claimed)
        with self.files.staged(files, card) as take:
            while not take(name, render({"version": name, **content})):
                # Taken by another publisher, or by us, in a request whose answer was lost.
                if self._is_published_as(name, content):
                    return name
                name = self._name_for(said, key, instead_of=name)
        return name

    def published_under(self, key: str) -> str | None:
        """The version that was published under a key, None where there is none."""
        name = self.files.claim_of(key)
        return name if name is not None and self.key_of(name) == key else None

    def load(self, version: str) -> ModelVersion:
        """A version with its files, each checked against its checksum. Raises RegistryError."""
        manifest = self._manifest(version)
        files = {}
        for name, entry in manifest["files"].items():
            data = self.files.file(version, StoredFile(name, **entry))
            if data is None:
                raise RegistryError(f"{name} of version {version} is missing.")
            if len(data) != entry["size_bytes"] or sha256(data) != entry["sha256"]:
                raise RegistryError(f"{name} of version {version} is not what was published.")
            files[name] = data
        card = files.pop(CARD, b"").decode()
        return ModelVersion(version, manifest["metadata"], files, card)

    def activate(
        self,
        version: str,
        reason: str,
        *,
        instead_of: str | None = None,
        decision: Mapping[str, Any] | None = None,
    ) -> None:
        """Make a version the one that serves, after checking its files.

        instead_of: the first of `newest_activation`, as the caller saw it when it decided; None: as it is
        when this begins. decision: JSON values, kept in the history beside the reason.
        Raises UnknownVersion, RegistryError on a version that is not whole, and RegistryConflict where
        another activation came after `instead_of`; nothing is changed then.
        """
        expected = self.newest_activation()[0] if instead_of is None else instead_of
        added = {} if decision is None else {"decision": plain(decision)}
        self.load(version)

        def entry_after(newest: bytes | None) -> bytes:
            replaced = _version_of(newest)
            if _digest(newest) != expected:
                raise RegistryConflict(
                    f"Version {version} was not activated: {replaced or 'another activation'} came first.",
                    hint="Look at what serves now, and ask again.",
                )
            at = datetime.now(UTC).isoformat()
            entry = {"version": version, "reason": reason, "at": at, "replaced": replaced, **added}
            return as_text(entry).encode()

        self.files.activate(entry_after)

    def newest_activation(self) -> tuple[str, str | None]:
        """The SHA-256 of the newest activation, and the version that it names; None where it names none."""
        newest = self.files.newest_activation()
        return _digest(newest), _version_of(newest)

    def key_of(self, version: str) -> str | None:
        """What a version was published under; None where there is no whole version of that name."""
        manifest = self._whole(version)
        return None if manifest is None else manifest["key"]

    def active(self) -> str | None:
        """The version that serves, None before the first activation. One small read."""
        newest = self.files.newest_activation()
        return None if newest is None else _activated(newest)

    def versions(self) -> list[VersionInfo]:
        """Every published version, in the order of their names. A broken one is there, with its problem."""
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            return list(pool.map(self.info, self._names()))

    def info(self, version: str) -> VersionInfo:
        """What one version says of itself, or why that cannot be trusted."""
        try:
            manifest = self._manifest(version)
            return VersionInfo(version, manifest["metadata"], published_at(version, manifest))
        except RegistryError as exc:
            return VersionInfo(version, {}, problem=str(exc))

    def metadata(self, version: str) -> Mapping[str, Any]:
        """The metadata of a version, whose files have not been read. Raises RegistryError."""
        metadata: Mapping[str, Any] = self._manifest(version)["metadata"]
        return metadata

    def history(self) -> list[dict[str, Any]]:
        """Every activation, oldest first: version, reason, at, replaced, and where there was one, a decision.

        An activation of the version that served already is one that was confirmed.
        """
        found = []
        for number, line in enumerate(self.files.activations(), start=1):
            try:
                found.append(json.loads(line))
            except ValueError as exc:
                raise RegistryError(f"Line {number} of {HISTORY} is not JSON.") from exc
        return found

    def _names(self) -> list[str]:
        return sorted(filter(is_version, self.files.versions()), key=numbers)

    def _name_for(self, metadata: Mapping[str, Any], key: str | None, *, instead_of: str | None) -> str:
        """The name to publish under now; `instead_of` is the one that was tried or claimed before."""
        wanted = self._next_name(metadata)
        if key is None:
            return wanted
        # Whoever publishes the same key at the same moment meets us at one name.
        name = self.files.claim(key, wanted, instead_of=instead_of)
        numbers(name)
        return name

    def _next_name(self, metadata: Mapping[str, Any]) -> str:
        names = self._names()
        if not names:
            return FIRST
        newest = self._whole(names[-1])
        # Nobody knows what a broken one was served as.
        return successor(names[-1], "major" if newest is None else change(newest["metadata"], metadata))

    def _is_published_as(self, version: str, content: Mapping[str, Any]) -> bool:
        """Whether a version was published under this content's key.

        Raises RegistryError when it has another content.
        """
        manifest = self._whole(version)
        if manifest is None or manifest["key"] != content["key"]:
            return False
        if not says_the_same(manifest, content):
            raise RegistryError(
                f"The key {content['key']!r} stands for version {version}, which has another content.",
                hint="Publish it under a key of its own.",
            )
        return True

    def _whole(self, version: str) -> dict[str, Any] | None:
        try:
            return self._manifest(version)
        except RegistryError:
            return None  # a broken version stands for no key

    def _manifest(self, version: str) -> dict[str, Any]:
        numbers(version)  # Refuses what is no name before it becomes a path.
        text = self.files.manifest(version)
        if text is None:
            raise UnknownVersion(f"There is no version {version}: it has no {MANIFEST}.")
        return parse(version, text)


def content_key(metadata: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """A key for `Registry.publish` that stands for exactly this content. Raises RegistryError on no JSON."""
    text = as_text({"metadata": plain(metadata), "files": entries(files)})
    return f"content:{sha256(text.encode())}"


def _digest(newest: bytes | None) -> str:
    return sha256(newest or b"")


def _version_of(newest: bytes | None) -> str | None:
    try:
        return None if newest is None else _activated(newest)
    except RegistryError:
        return None  # a broken pointer is what an activation repairs


def _activated(entry: bytes) -> str:
    try:
        version = json.loads(entry)["version"]
        numbers(version)
    except (ValueError, KeyError, TypeError) as exc:
        raise RegistryError(
            "The newest activation does not name a version.", hint="Activate one again."
        ) from exc
    return str(version)
