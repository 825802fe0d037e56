"""The newest headlines of an RSS 2.0 feed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn, Self
from urllib.parse import parse_qsl, urlsplit
from xml.parsers import expat

from levibot.clock import Clock
from levibot.errors import SettingsError
from levibot.market.http_client import HttpClient
from levibot.market.news import MAX_HEADLINE_CHARS
from levibot.resilience.circuit_board import CircuitBoard
from levibot.settings import Settings
from levibot.telemetry.metrics import DEFAULT, Metrics

NAME = "headlines"
KINDS = ("application/rss+xml", "application/xml", "text/xml")


@dataclass(frozen=True, slots=True)
class Headline:
    """One line of news. text: 1 to MAX_HEADLINE_CHARS characters. published_at: as the feed says, UTC."""

    text: str
    published_at: datetime

    @property
    def key(self) -> str:
        """A short name of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


class HeadlineFeed:
    """Reads one feed, for one event loop. A call raises SourceUnavailable or SourceError."""

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        timeout_s: float = 5.0,
        reset_s: float = 30.0,
        shared: CircuitBoard | None = None,
        metrics: Metrics = DEFAULT,
    ) -> None:
        parts = urlsplit(url)
        if not parts.netloc:
            raise SettingsError(f"The address of {NAME}, {url!r}, is no web address.", hint="Write https://…")
        # A path of its own: joined to the base it would get a slash, which is another address.
        self._path, self._query = parts.path or "/", dict(parse_qsl(parts.query))
        self._http = HttpClient(
            NAME,
            f"{parts.scheme}://{parts.netloc}",
            clock,
            headers={"Accept": ", ".join(KINDS)},
            timeout_s=timeout_s,
            reset_s=reset_s,
            shared=shared,
            metrics=metrics,
        )

    @classmethod
    def open(cls, settings: Settings, clock: Clock, shared: CircuitBoard | None = None) -> Self:
        """The feed that the settings name."""
        return cls(settings.news_feed_url, clock, shared=shared)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def newest(self, n: int) -> tuple[Headline, ...]:
        """The newest `n` headlines, or as many as there are, newest first; each text once."""
        headlines = await self._http.get_bytes(self._path, self._query, KINDS, headlines_of)
        ordered = sorted(headlines, key=lambda headline: (headline.published_at, headline.text), reverse=True)
        once = {headline.text: headline for headline in reversed(ordered)}
        return tuple(headline for headline in ordered if once[headline.text] is headline)[:n]


def headlines_of(feed: bytes) -> tuple[Headline, ...]:
    """The items of an RSS feed that have a title and a date, in its order.

    Raises ValueError on what is no RSS, declares entities of its own, or has no dated item.
    """
    items = _Items()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = items.start
    parser.EndElementHandler = items.end
    parser.CharacterDataHandler = items.text
    # A few lines of entities can unpack to anything; no feed needs them.
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(feed, True)
    except expat.ExpatError as exc:
        raise ValueError(f"no XML: {exc}") from exc
    found = tuple(headline for item in items.found if (headline := _headline(item)) is not None)
    if not found:
        raise ValueError("no item with a title and a date")
    return found


class _Items:
    """Collects the texts of `item/title` and `item/pubDate` while a document is read."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []
        self._open: list[str] = []

    def start(self, name: str, _: object) -> None:
        self._open.append(name)
        if name == "item":
            self.found.append({})

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        if self._open[-2:-1] == ["item"] and self._open[-1] in ("title", "pubDate"):
            item = self.found[-1]
            item[self._open[-1]] = item.get(self._open[-1], "") + text


def _headline(item: dict[str, str]) -> Headline | None:
    text = " ".join(item.get("title", "").split())[:MAX_HEADLINE_CHARS].strip()
    try:
        published_at = parsedate_to_datetime(item.get("pubDate", "").strip())
    except (ValueError, OverflowError):
        return None
    if not text:
        return None
    if published_at.tzinfo is None:
        # RFC 5322: -0000 says UTC, and nothing of the place.
        published_at = published_at.replace(tzinfo=UTC)
    return Headline(text, published_at.astimezone(UTC))


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("a document type of its own")


def newest_of(headlines: Sequence[Headline]) -> datetime:
    """When the newest was published. headlines: at least one."""
    return max(headline.published_at for headline in headlines)
