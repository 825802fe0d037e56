"""The event store's ends: its folder, its address, and what survives kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from levibot.errors import SettingsError, StoreUnavailable
from levibot.stores.events import EventStore

pytestmark = pytest.mark.stores

WRITER = """
import sys
from datetime import UTC, datetime
from levibot.stores.events import Event, EventStore
store = EventStore.open(sys.argv[1])
number = 0
while True:
    store.append([Event("bar", "BTCUSDT", datetime.now(UTC), {}, event_id=str(number))])
    print(number, flush=True)
    number += 1
"""
READER = """
import sys
from levibot.stores.events import EventStore
store = EventStore.open(sys.argv[1])
print(*(event.event_id for event in store.read(10_000)))
store.close()
"""


def test_a_folder_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path / 'events'}"
    with _process("-c", WRITER, url) as (_, output):
        output.readline()
        done = _run(READER, url)
    assert done.returncode == 1
    assert "is in use by another process. Read through its owner" in done.stderr


@pytest.mark.parametrize("url", ["", "events", "chdb://relative/folder", "postgresql://host/db", "http://"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="chdb:///absolute/folder"):
        EventStore.open(url)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable, match=r"No answer from ClickHouse at 127\.0\.0\.1"):
        EventStore.open("http://user:secret@127.0.0.1:1/default", timeout_s=1.0)


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    url = f"chdb://{tmp_path / 'events'}"
    with _process("-c", WRITER, url) as (pid, output):
        acknowledged = [output.readline().strip() for _ in range(40)]
        os.kill(pid, signal.SIGKILL)
        acknowledged += output.read().split()
    assert acknowledged[:40] == [str(n) for n in range(40)]
    found = _run(READER, url).stdout.split()
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)


def test_a_closed_store_is_an_error_and_opens_again(tmp_path: Path) -> None:
    code = """
import sys
from datetime import UTC, datetime
from levibot.errors import StoreError
from levibot.stores.events import Event, EventStore
store = EventStore.open(sys.argv[1])
store.append([Event("bar", "BTCUSDT", datetime.now(UTC), {})])
store.close()
try:
    store.count()
except StoreError as exc:
    print("refused")
store = EventStore.open(sys.argv[1])
print(store.count())
store.close()
"""
    done = _run(code, f"chdb://{tmp_path / 'events'}")
    assert done.stdout.split() == ["refused", "1"], done.stderr


@contextmanager
def _process(*arguments: str) -> Iterator[tuple[int, IO[str]]]:
    """A Python process and its output, killed at the end."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout
        finally:
            process.kill()


def _run(code: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=False, timeout=60
    )
