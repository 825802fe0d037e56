"""The address of a Redis server, or of the Sentinels that know which server is the primary."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import parse_url

from levibot.errors import SettingsError

SENTINEL_SCHEME = "redis+sentinel"
SENTINEL_PORT = 26379

_FORMS = (
    "redis://[user:password@]host:port[/db], rediss:// (TLS), unix:///path, or "
    f"{SENTINEL_SCHEME}://[user:password@]host:port,host:port,host:port/service[/db]"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:,/\s]+)(?::(?P<port>[0-9]+))?")
_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A primary by the name that its Sentinels have for it.

    sentinels: (host, port) of each. service: the primary's name there. username, password: of the data nodes;
    sentinel_username, sentinel_password: of the Sentinels, which have none of their own by default.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)


def is_sentinel(url: str) -> bool:
    return url.startswith(f"{SENTINEL_SCHEME}:")


def parse_sentinel(url: str) -> SentinelUrl:
    """The parts of `redis+sentinel://[user:password@]h1:p1,h2:p2,h3:p3/service[/db]`.

    A port left out is 26379; user and password are percent-encoded; a Sentinel's own login is given by
    `?sentinel_username=…&sentinel_password=…`. Raises SettingsError, which shows no password.
    """
    rest = url.partition("://")[2]
    place, _, query = rest.partition("?")
    login, _, where = place.rpartition("@")
    hosts, _, path = where.partition("/")
    sentinels = tuple(_sentinel(url, n, host) for n, host in enumerate(hosts.split(","), start=1))
    service, _, db = unquote(path).partition("/")
    if not service or re.search(r"\s", service):
        raise _wrong(url, "the service, after the Sentinels, is no name")
    if db and not re.fullmatch(r"[0-9]{1,5}", db):
        raise _wrong(url, "the database is no number")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= set(_OPTIONS):
        raise _wrong(url, f"an option is none of {', '.join(_OPTIONS)}")
    username, _, password = login.partition(":")
    return SentinelUrl(
        sentinels,
        service,
        int(db or 0),
        unquote(username) or None,
        unquote(password) or None,
        options.get("sentinel_username") or None,
        options.get("sentinel_password") or None,
    )


def check_url(url: str) -> None:
    """Raises SettingsError, without any password, unless `url` is that of one server."""
    # No part of the URL is repeated: where a sign is missing or not encoded, it may be the password.
    problem = None
    try:
        options: dict[str, Any] = dict(parse_url(url))
        parts = urlsplit(url)
        if parts.scheme == "unix" and not options.get("path"):
            problem = "no path of a socket"
        elif parts.scheme != "unix" and not options.get("host"):
            problem = "no host"
        elif parts.scheme != "unix" and not re.fullmatch(r"/?[0-9]{0,5}/?", parts.path):
            problem = "the database is no number"
    except ValueError as exc:
        # urllib's errors repeat a part of the URL, those of redis-py do not.
        ours = str(exc) if str(exc).startswith(("Redis URL must", "Invalid value for")) else ""
        problem = ours.rstrip(".") or "host or port cannot be read"
    if problem is not None:
        raise _wrong(url, problem)


def redacted(url: str) -> str:
    """The URL as it may be shown: hosts and service, and `***` for all else that could hide a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(without a scheme)"
    place, _, query = rest.partition("?")
    login, at, where = place.rpartition("@")
    hosts = where.partition("/")[0]
    if "@" in query or not all(_HOST.fullmatch(host) for host in hosts.split(",") if host):
        return f"{scheme}://***"
    return f"{scheme}://{'***' if login else ''}{at}{where}"


def _sentinel(url: str, n: int, text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or SENTINEL_PORT) if found else 0
    if found is None or not 1 <= port <= 65535:
        # What stands there is not repeated: after a forgotten @ it is the password.
        raise _wrong(url, f"Sentinel {n} is no host:port")
    return found["host"].strip("[]"), port


def _wrong(url: str, reason: str) -> SettingsError:
    return SettingsError(f"The Redis URL {redacted(url)} cannot be used: {reason}.", hint=f"Use {_FORMS}.")
