"""Feature histories that are written once, named by what is in them, and read by any number of processes.

    FOLDER/KEY/history.duckdb, segments/     as `OfflineStore` writes them
    FOLDER/KEY/manifest.json                 SHA-256 of every file
    FOLDER/KEY/lock                          held by those who read or write it
    FOLDER/lock                              held while a history is begun, or old ones are removed

A history is written beside its place and gets its name last, the manifest before that. Whoever opens one
compares every file with the manifest; a torn one is put aside and made anew. Of all histories those used last
stay, up to a number of bytes, and those that somebody reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog

from levibot.clock import Clock
from levibot.errors import StoreError
from levibot.stores.offline import OfflineStore
from levibot.stores.segments import write_whole

MANIFEST, LOCK = "manifest.json", "lock"
HALF = ".half-"
# Eleven years of six symbols with 54 features are 250 MB.
MOST_BYTES = 2 * 2**30
log = structlog.get_logger()

Write = Callable[[OfflineStore], None]


class FrozenHistories:
    """The histories in one folder. State: none in memory.

    say: told in one sentence why a history is not kept, where the folder cannot be written to.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder
        self._say = say
        self._most_bytes = most_bytes

    @contextmanager
    def open(self, key: str, clock: Clock, write: Write) -> Iterator[OfflineStore]:
        """The history of that key, read-only; `write` fills it where there is none.

        clock: its market's. Where the folder cannot be written to, a history that is not there already is
        made in a temporary one, and `say` is told. Raises what `write` raises, and StoreError.
        """
        with ExitStack() as held:
            place = self._found(key, held)
            if place is None:
                folder = self._writable(held)
                place = _made(folder, key, clock, write, held)
                if folder == self.folder:
                    self._prune()
            store = OfflineStore.open_read_only(place, key, clock)
            held.callback(store.close)
            yield store

    def _found(self, key: str, held: ExitStack) -> Path | None:
        """The whole history of that key, held against removal; None where there is none."""
        place = self.folder / key
        if not place.exists():
            return None
        lock = _locked(place / LOCK, fcntl.LOCK_SH)
        problem = f"it has no file {LOCK}" if lock is None else _problem_of(place)
        if lock is not None and not problem:
            held.callback(os.close, lock)
            with suppress(OSError):
                # Used last: it stays longest. Where one may only read, the order stays.
                os.utime(place)
            return place
        if lock is not None:
            os.close(lock)
        log.warning("a stored history is torn and is made anew", folder=str(place), reason=problem)
        with suppress(OSError):
            _remove(place)
        return None

    def _writable(self, held: ExitStack) -> Path:
        """The folder, or a temporary one that goes when it is not needed any more."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK).touch()
            return self.folder
        except OSError as exc:
            self._say(
                f"{self.folder} cannot be written to ({exc.strerror or exc}): the features are kept in a "
                "temporary folder, and the next run computes them again."
            )
            return Path(held.enter_context(tempfile.TemporaryDirectory(prefix="levibot-history-")))

    def _prune(self) -> None:
        """Remove what killed processes left, and the histories used longest ago that are too much."""
        with _alone(self.folder):
            for half in self.folder.glob(f"{HALF}*"):
                _remove_unless_held(half)
            whole = [path.parent for path in self.folder.glob(f"[!.]*/{MANIFEST}")]
            whole.sort(key=lambda place: place.stat().st_mtime_ns, reverse=True)
            n_bytes = 0
            for place in whole:
                n_bytes += sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
                if n_bytes > self._most_bytes:
                    _remove_unless_held(place)


def _made(folder: Path, key: str, clock: Clock, write: Write, held: ExitStack) -> Path:
    """Write the history under another name; it gets its own when it is whole. Held against removal."""
    with _alone(folder):
        half = Path(tempfile.mkdtemp(prefix=HALF, dir=folder))
        # From here on nobody takes it for what a killed process has left.
        lock = _locked(half / LOCK, fcntl.LOCK_SH, create=True)
    assert lock is not None
    held.callback(os.close, lock)
    try:
        store = OfflineStore.open(half, key, clock)
        try:
            write(store)
        finally:
            store.close()
        write_whole(half / MANIFEST, json.dumps(_checksums(half), indent=1).encode())
    except OSError as exc:
        shutil.rmtree(half, ignore_errors=True)
        raise StoreError(f"The history in {folder} cannot be written: {exc.strerror or exc}.") from exc
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    try:
        half.rename(folder / key)
    except OSError:
        # Somebody else was faster. Ours says the same, is read from where it is, and goes afterwards.
        held.callback(shutil.rmtree, half, ignore_errors=True)
        return half
    return folder / key


def _problem_of(place: Path) -> str:
    """Why a history is not whole; empty where it is."""
    try:
        told = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        found = _checksums(place)
    except (OSError, ValueError) as exc:
        return f"it cannot be read: {exc}"
    if told == found:
        return ""
    wrong = sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name))
    return f"{len(wrong)} files are not those that were written, the first of them {wrong[0]}"


def _checksums(place: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest and the lock, by its path."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_file() and name not in (MANIFEST, LOCK):
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _locked(path: Path, kind: int, *, create: bool = False) -> int | None:
    """A handle that holds the lock until it is closed, or its process ends; None where there is no file."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o644)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"{path} cannot be opened: {exc.strerror or exc}.") from exc
    try:
        fcntl.flock(lock, kind)
        # While we waited, it may have been removed.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except FileNotFoundError:
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time begins a history or removes some."""
    with (folder / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unless_held(place: Path) -> None:
    try:
        lock = _locked(place / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    _remove(place)
    if lock is not None:
        os.close(lock)


def _remove(place: Path) -> None:
    """Its name goes first: killed in between, what is left is not taken for a history."""
    if place.name.startswith(HALF):
        shutil.rmtree(place, ignore_errors=True)
        return
    half = Path(tempfile.mkdtemp(prefix=HALF, dir=place.parent))
    place.rename(half / place.name)
    shutil.rmtree(half, ignore_errors=True)
