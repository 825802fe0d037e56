"""A client of ClickHouse: of a server, or of the real engine inside this process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from levibot.errors import SettingsError, StoreError, StoreUnavailable


def open_clickhouse(url: str, *, timeout_s: float) -> tuple[Client, str]:
    """A client at `chdb:///absolute/folder` or at a server's http(s) URL, and the place as messages call it.

    timeout_s bounds each call to a server; the engine in process has no network to wait for.
    Raises SettingsError on another kind of URL, StoreError when another process holds the folder,
    StoreUnavailable when the server does not answer.
    """
    folder = url.removeprefix("chdb://")
    if folder != url and folder.startswith("/"):
        return _open_engine(Path(folder)), f"the ClickHouse engine in {folder}"
    return _connect(url, timeout_s)


@contextmanager
def translated(where: str, what: str) -> Iterator[None]:
    """Raise the client's errors as StoreUnavailable or StoreError, naming the place and what was asked."""
    try:
        yield
    except OperationalError as exc:
        raise StoreUnavailable(f"No answer from {where} ({what}).") from exc
    except ClickHouseError as exc:
        raise StoreError(f"{where} refused to {what}: {exc}.") from exc


def _connect(clickhouse: str, timeout_s: float) -> tuple[Client, str]:
    url = urlsplit(clickhouse)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError(
            f"The event store's URL has the scheme {url.scheme!r} and the host {url.hostname!r}.",
            hint="Use chdb:///absolute/folder or http(s)://host:port/database.",
        )
    where = f"ClickHouse at {url.hostname}"
    with translated(where, "connect"):
        client = clickhouse_connect.get_client(
            dsn=clickhouse,
            interface=url.scheme,
            connect_timeout=timeout_s,
            send_receive_timeout=timeout_s,
            autogenerate_session_id=False,
        )
    return client, where


def _open_engine(folder: Path) -> Client:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return clickhouse_connect.get_client(interface="chdb", path=str(folder))
    except ClickHouseError as exc:
        if _is_held(folder):
            raise StoreError(
                f"The event store in {folder} is in use by another process.",
                hint="Read through its owner, or set LEVIBOT_CLICKHOUSE_URL to a server.",
            ) from exc
        raise StoreError(f"The event store in {folder} cannot be opened: {exc}.") from exc


def _is_held(folder: Path) -> bool:
    # The engine keeps this lock for its life, but tells its reason for failing only on stderr.
    try:
        with (folder / "status").open("rb") as status:
            fcntl.flock(status, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
