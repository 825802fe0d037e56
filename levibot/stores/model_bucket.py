"""The model registry's files in an S3 bucket.

    PREFIX/files/<sha256>      the files of every version, named by their content
    PREFIX/v1.2.3/model.json   the manifest of a version: it names its files' checksums
    PREFIX/keys/<sha256>       the name under which the key with this checksum is published
    PREFIX/history.jsonl       every activation, one a line; the last line names the version that serves

The manifest is written last, and only where its name is free: that one request takes the name and makes the
version visible. An activation is one request too, refused when another came first: pointer and history are
one object and cannot disagree.

The client itself reads the variables that every S3 tool reads: AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP and the rest. They are not LeviBot's settings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Self, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError
from obstore.store import S3Store

from levibot.errors import LeviBotError, RegistryError, SettingsError, StoreUnavailable
from levibot.stores.model_files import CARD, HISTORY, MANIFEST, StoredFile

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Config

# A follower asks so often at most: most of the answers are "not modified", and each is a request to pay for.
POLL_S = 1.0
# S3's smallest part of a larger upload. One request carries no more.
PART_BYTES = 5 * 1024 * 1024
# What a full part may take on top of the time-out: 5 Mbit/s.
PART_S = 8.0
PARALLEL_PARTS = 4
RETRIES = 2
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 1.0

_STATUS = re.compile(r"status code: ([0-9]{3})")
# Too slow, another conditional write under way, too many requests.
_BUSY = (408, 409, 429)
_NO_BUCKET = "NoSuchBucket"
_HINT = "The client takes AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."


class ModelBucket:
    """The registry's files under one prefix of a bucket, for processes anywhere.

    State: the newest activation as it was last read, so that reading it again costs no transfer. Safe to
    call from several threads.
    """

    poll_s = POLL_S

    def __init__(self, small: S3Store, large: S3Store, where: str) -> None:
        self.where = where
        self._small = small
        self._large = large
        self._history: tuple[str, bytes] | None = None

    @classmethod
    def open(cls, url: str, *, timeout_s: float) -> Self:
        """The files at `s3://bucket/prefix`. Connects at the first call, not here.

        timeout_s: for each request, and for its repeats together; the transfer of a file has `PART_S` more
        for each part of 5 MB. Raises SettingsError when the URL names no bucket.
        """
        bucket, _, prefix = url.removeprefix("s3://").rstrip("/").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise SettingsError(f"{url!r} is no place for models: s3://bucket/prefix.")
        return cls(
            _client(bucket, prefix, timeout_s, timeout_s),
            _client(bucket, prefix, timeout_s, timeout_s + PART_S),
            url,
        )

    def versions(self) -> list[str]:
        with self._translated("list the versions"):
            return list(obstore.list_with_delimiter(self._small)["common_prefixes"])

    def manifest(self, version: str) -> bytes | None:
        return self._get(f"read {MANIFEST} of version {version}", f"{version}/{MANIFEST}")

    def file(self, version: str, stored: StoredFile) -> bytes | None:
        path = _file_path(stored.sha256)
        if stored.size_bytes == 0:
            return self._get(f"read {stored.name} of version {version}", path)
        parts = bytearray()
        with self._translated(f"read {stored.name} of version {version}"):
            try:
                # In parts: so the time-out of a request bounds a silence, not the transfer of a large file.
                for start in range(0, stored.size_bytes, PART_BYTES):
                    end = min(start + PART_BYTES, stored.size_bytes)
                    parts += obstore.get_range(self._large, path, start=start, end=end)
            except FileNotFoundError as exc:
                _check_bucket(exc)
                return None
        return bytes(parts)

    def claim_of(self, key: str) -> str | None:
        return self._claim(key)[0]

    def claim(self, key: str, version: str, *, instead_of: str | None) -> str:
        while True:
            claimed, tag = self._claim(key)
            if claimed is not None and claimed != instead_of:
                return claimed
            with self._translated("claim a name"):
                try:
                    mode: PutMode = "create" if tag is None else {"e_tag": tag}
                    obstore.put(self._small, _key_path(key), version.encode(), mode=mode)
                except (AlreadyExistsError, PreconditionError):
                    continue  # Somebody else's, or ours in a request whose answer was lost.
            return version

    @contextmanager
    def staged(self, files: Mapping[str, bytes], card: bytes) -> Iterator[Callable[[str, bytes], bool]]:
        # A crash from here on leaves files that no manifest names: they cost space, and nobody reads them.
        for name, data in chain(files.items(), ((CARD, card),)):
            with self._translated(f"write {name}"):
                path = _file_path(_sha256(data))
                obstore.put(self._large, path, data, chunk_size=PART_BYTES, max_concurrency=PARALLEL_PARTS)
        yield self._take

    def newest_activation(self) -> bytes | None:
        known = self._read_history()
        return None if known is None else known[1].rpartition(b"\n")[2]

    def activations(self) -> list[bytes]:
        known = self._read_history()
        return [] if known is None else known[1].splitlines()

    def activate(self, entry_after: Callable[[bytes | None], bytes]) -> None:
        while True:
            known = self._read_history()
            newest = None if known is None else known[1].rpartition(b"\n")[2]
            entry = entry_after(newest)
            content = entry if known is None else known[1] + b"\n" + entry
            with self._translated("write the activation"):
                try:
                    obstore.put(
                        self._small, HISTORY, content, mode="create" if known is None else {"e_tag": known[0]}
                    )
                except (AlreadyExistsError, PreconditionError):
                    after = self._read_history()
                    # A repeat of a request whose answer was lost is refused by its own success.
                    if after is not None and entry in after[1].splitlines():
                        return
                    continue  # another activation came first: this one comes after it
            return

    def _take(self, version: str, manifest: bytes) -> bool:
        with self._translated(f"write {MANIFEST} of version {version}"):
            try:
                obstore.put(self._small, f"{version}/{MANIFEST}", manifest, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def _claim(self, key: str) -> tuple[str | None, str | None]:
        """The claimed name of a key and the tag of this very state; None and None before the first."""
        with self._translated("look up a key"):
            try:
                answer = obstore.get(self._small, _key_path(key))
                return bytes(answer.bytes()).decode(errors="replace"), answer.meta["e_tag"]
            except FileNotFoundError as exc:
                _check_bucket(exc)
                return None, None

    def _read_history(self) -> tuple[str, bytes] | None:
        """The activations with the tag of this very state, None before the first."""
        known = self._history
        with self._translated("read the activations"):
            try:
                if known is None:
                    answer = obstore.get(self._small, HISTORY)
                else:
                    answer = obstore.get(self._small, HISTORY, options={"if_none_match": known[0]})
                tag = answer.meta["e_tag"]
                content = bytes(answer.bytes())
            except NotModifiedError:
                return known
            except FileNotFoundError as exc:
                _check_bucket(exc)
                return None
        if tag is None:
            raise RegistryError(f"{self.where} gives no ETag: activations there could overwrite each other.")
        self._history = tag, content
        return self._history

    def _get(self, what: str, path: str) -> bytes | None:
        with self._translated(what):
            try:
                return bytes(obstore.get(self._small, path).bytes())
            except FileNotFoundError as exc:
                _check_bucket(exc)
                return None

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as exc:
            raise self._error(what, str(exc)) from exc

    def _error(self, what: str, text: str) -> LeviBotError:
        """What an error of the client means. It has no types for these; its text is all there is."""
        reason = text.partition("\n")[0].strip().rstrip(".:")
        if _NO_BUCKET in text:
            return RegistryError(
                f"There is no bucket for {self.where}.", hint="Make it, or set LEVIBOT_MODELS_URL."
            )
        status = _STATUS.search(reason)
        if "builder error" in reason:
            return RegistryError(
                f"No request can be made to {self.where}.", hint="A plain http:// needs AWS_ALLOW_HTTP=true."
            )
        if status is not None and int(status[1]) < 500 and int(status[1]) not in _BUSY:
            return RegistryError(f"{self.where} refused to {what}: {reason}.", hint=_HINT)
        return StoreUnavailable(f"{self.where} did not answer ({what}): {reason}.", hint=_HINT)


def _client(bucket: str, prefix: str, connect_s: float, request_s: float) -> S3Store:
    limits = {"connect_timeout": f"{connect_s * 1000:.0f}ms", "timeout": f"{request_s * 1000:.0f}ms"}
    return S3Store(
        bucket,
        prefix=prefix or None,
        # The client's options may stand here; only the types do not say so. As `client_options` they would
        # put AWS_ALLOW_HTTP out of force.
        config=cast("S3Config", limits),
        retry_config={
            "max_retries": RETRIES,
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_BACKOFF_S),
                "max_backoff": timedelta(seconds=LONGEST_BACKOFF_S),
            },
            # A silent server is not asked again: the first request has taken all the time there is.
            "retry_timeout": timedelta(seconds=request_s),
        },
    )


def _file_path(sha256: str) -> str:
    return f"files/{sha256}"


def _key_path(key: str) -> str:
    return f"keys/{_sha256(key.encode())}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_bucket(exc: FileNotFoundError) -> None:
    """Raise it again where it is not the object that is missing."""
    if _NO_BUCKET in str(exc):
        raise exc
