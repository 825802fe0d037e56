"""The API keys of a state folder, in one file that every replica reads: `keys.json`, for its owner only."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path

from levibot.access.api_key import ApiKey, Role, digest_of, is_text_of, key_id_of, new_key
from levibot.clock import Clock, SystemClock
from levibot.errors import StoreError, UsageError

FILE_NAME = "keys.json"
MAX_KEYS = 1_000
# Compared with where no key has the asked identity, so that this takes no less time.
NO_DIGEST = digest_of("")


class KeyFile:
    """The keys of one state folder. State: what was read last, and of which version of the file.

    Every look at a key asks the file system whether the file is another one: what was revoked is refused by
    the next request on every replica that shares the folder, with all stores away too.
    clock: of the machine, for what expires.
    """

    def __init__(self, home: Path, clock: Clock | None = None) -> None:
        self.path = home / FILE_NAME
        self._clock = clock or SystemClock()
        self._version: tuple[int, int, int] | None = None
        self._keys: Mapping[str, ApiKey] = {}

    def find(self, text: str) -> ApiKey | None:
        """The valid key of that text, None where there is none. Raises StoreError on a broken file."""
        key = self._read().get(key_id_of(text))
        if key is None:
            is_text_of(ApiKey("", "", Role.READER, NO_DIGEST, self._clock.now()), text)
            return None
        return key if is_text_of(key, text) and key.is_valid(self._clock.now()) else None

    def records(self) -> list[ApiKey]:
        """All there ever were, oldest first. Raises StoreError on a broken file."""
        return sorted(self._read().values(), key=lambda key: key.created_at)

    def create(
        self,
        name: str,
        role: Role,
        *,
        life: timedelta | None = None,
        instead_of: str | None = None,
        overlap: timedelta = timedelta(0),
    ) -> tuple[str, ApiKey]:
        """A new key: its text, which is kept nowhere, and its record.

        life: None: for ever. instead_of: the identity of a key that ends `overlap` from now: a rotation.
        Raises UsageError on a name that is none, an unknown or ended key, or one key too many.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
            raise UsageError(f"A key is named {name!r}.", hint="Use a-z, 0-9, _ and -, at most 64 of them.")
        with self._writing() as keys:
            now = self._clock.now()
            if len(keys) >= MAX_KEYS:
                raise UsageError(
                    f"{self.path} holds {MAX_KEYS} keys, its limit.",
                    hint="Delete lines of keys that are revoked or expired from it.",
                )
            if instead_of is not None:
                old = _valid(keys, instead_of, now)
                ends_at = now + overlap
                keys[instead_of] = replace(old, expires_at=min(ends_at, old.expires_at or ends_at))
            text, key = new_key(name, role, now, None if life is None else now + life)
            keys[key.key_id] = key
        return text, key

    def create_first(self, name: str, role: Role) -> str | None:
        """The text of a new key where no key was ever made; None where there is a file of keys already."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing() as keys:
            if self.path.exists():
                return None
            text, key = new_key(name, role, self._clock.now())
            keys[key.key_id] = key
        return text

    def revoke(self, key_id: str) -> ApiKey:
        """End a key now. Raises UsageError on a key that is not there or has ended."""
        # Before anything is locked: there may be no folder to lock in.
        _valid(self._read(), key_id, self._clock.now())
        with self._writing() as keys:
            now = self._clock.now()
            keys[key_id] = ended = replace(_valid(keys, key_id, now), revoked_at=now)
        return ended

    def renew(self, name: str, role: Role) -> str:
        """The text of a new key of that name; every other one of the name is forgotten."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing() as keys:
            for key_id in [key.key_id for key in keys.values() if key.name == name]:
                del keys[key_id]
            text, key = new_key(name, role, self._clock.now())
            keys[key.key_id] = key
        return text

    def forget(self, name: str) -> None:
        """Delete every key of that name."""
        with self._writing() as keys:
            for key_id in [key.key_id for key in keys.values() if key.name == name]:
                del keys[key_id]

    def _read(self) -> Mapping[str, ApiKey]:
        try:
            # Opened and not only looked up: a network file system asks its server for the newest then.
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                version = status.st_ino, status.st_mtime_ns, status.st_size
                if version != self._version:
                    self._keys = _parsed(file.read(), self.path)
                    self._version = version
        except FileNotFoundError:
            self._keys, self._version = {}, None
        except OSError as exc:
            raise StoreError(f"The keys in {self.path} cannot be read: {exc.strerror}.") from exc
        return self._keys

    @contextmanager
    def _writing(self) -> Iterator[dict[str, ApiKey]]:
        """The keys, to be changed in the block; written when it ends well. One writer at a time."""
        try:
            with self.path.with_suffix(".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                before = dict(self._read())
                keys = dict(before)
                yield keys
                if keys != before:
                    self._write(keys)
        except OSError as exc:
            raise StoreError(f"The keys in {self.path} cannot be written: {exc.strerror}.") from exc

    def _write(self, keys: Mapping[str, ApiKey]) -> None:
        draft = self.path.with_suffix(".json.new")
        draft.unlink(missing_ok=True)
        text = json.dumps({"keys": [_to_json(key) for key in keys.values()]}, indent=1)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


def _valid(keys: Mapping[str, ApiKey], key_id: str, now: datetime) -> ApiKey:
    key = keys.get(key_id)
    if key is None:
        raise UsageError(f"There is no key {key_id}.", hint="See `python -m levibot keys list`.")
    if not key.is_valid(now):
        raise UsageError(f"The key {key_id} is {key.state(now)} already.")
    return key


def _to_json(key: ApiKey) -> dict[str, str | None]:
    instants = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return asdict(key) | {name: None if at is None else at.isoformat() for name, at in instants.items()}


def _parsed(data: bytes, path: Path) -> dict[str, ApiKey]:
    """Raises StoreError on what is not a file of keys: a key that cannot be read opens nothing."""
    try:
        found: dict[str, ApiKey] = {}
        for fields in json.loads(data)["keys"]:
            names = ("created_at", "expires_at", "revoked_at")
            instants = {name: None if fields[name] is None else _instant(fields[name]) for name in names}
            key = ApiKey(**fields | instants | {"role": Role(fields["role"])})
            if not re.fullmatch(r"[0-9a-f]{64}", key.digest):
                raise ValueError(f"the digest of {key.key_id} is none")
            found[key.key_id] = key
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise StoreError(
            f"The keys in {path} cannot be read: {exc}.",
            hint="Restore the file, or remove it and make new keys with `python -m levibot keys create`.",
        ) from exc
    return found


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return instant
