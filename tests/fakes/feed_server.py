"""A stand-in for a news site: its headlines as RSS 2.0."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from xml.sax.saxutils import escape

from tests.fakes.loopback_server import Asked, LoopbackServer

FIRST = datetime(2026, 3, 1, 9, tzinfo=UTC)


class FakeFeed(LoopbackServer):
    """Serves `headlines` as items, newest first, a minute apart; `body` in their place where it is set.

    newest_at: when the newest was published.
    """

    content_type = "application/rss+xml"

    def __init__(self, headlines: list[str] | None = None) -> None:
        super().__init__()
        self.headlines = headlines or ["Bitcoin rises", "Ether & Solana fall"]
        self.newest_at = FIRST
        self.body: str | None = None

    async def respond(self, asked: Asked) -> tuple[int, str]:
        if asked.path != "/rss":
            return 404, "<html/>"
        return 200, self.body or rss(self.headlines, self.newest_at)


def rss(headlines: list[str], newest_at: datetime) -> str:
    items = "".join(
        f"<item><title>{escape(text)}</title><link>https://news.example/{n}</link>"
        f"<pubDate>{format_datetime(newest_at - n * timedelta(minutes=1))}</pubDate></item>"
        for n, text in enumerate(headlines)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel>'
        f"<title>News</title><pubDate>{format_datetime(newest_at)}</pubDate>{items}</channel></rss>"
    )
