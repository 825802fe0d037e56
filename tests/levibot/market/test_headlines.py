"""Headlines of a feed: what is one, in which order, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levibot.clock import SystemClock
from levibot.errors import SettingsError, SourceError, SourceUnavailable
from levibot.market.headlines import Headline, HeadlineFeed, headlines_of
from levibot.market.news import MAX_HEADLINE_CHARS
from levibot.telemetry.metrics import Metrics
from tests.fakes.feed_server import FIRST, FakeFeed, rss


@pytest.fixture
def server() -> Iterator[FakeFeed]:
    with FakeFeed() as running:
        yield running


@pytest.fixture
async def feed(server: FakeFeed, metrics: Metrics) -> AsyncIterator[HeadlineFeed]:
    opened = HeadlineFeed(f"{server.url}/rss", SystemClock(), timeout_s=0.3, metrics=metrics)
    yield opened
    await opened.close()


async def test_the_newest_headlines_come_first_and_each_once(server: FakeFeed, feed: HeadlineFeed) -> None:
    server.headlines = ["one", "two & three", "one", "four"]
    found = await feed.newest(10)
    assert [headline.text for headline in found] == ["one", "two & three", "four"]
    assert found[0].published_at == FIRST
    assert found[1].published_at == FIRST - timedelta(minutes=1)
    assert await feed.newest(1) == found[:1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<rss><channel></channel></rss>", "no item"),
        ("<rss><channel><item>", "no XML"),
        ("{}", "no XML"),
        ("<rss><item><title>x</title></item></rss>", "no item"),
        (
            "<rss><item><title> </title><pubDate>Sun, 01 Mar 2026 09:00:00 GMT</pubDate></item></rss>",
            "no item",
        ),
        ("<rss><item><title>x</title><pubDate>yesterday</pubDate></item></rss>", "no item"),
        ('<!DOCTYPE rss [<!ENTITY a "b">]><rss><item><title>&a;</title></item></rss>', "document type"),
    ],
)
async def test_what_is_no_feed_is_refused(
    server: FakeFeed, feed: HeadlineFeed, body: str, reason: str
) -> None:
    server.body = body
    with pytest.raises(SourceError, match=reason) as refused:
        await feed.newest(5)
    assert not refused.value.is_transient
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["hang", "429", "500", "reset", "truncated"])
async def test_a_feed_that_does_not_answer_is_unavailable(
    server: FakeFeed, feed: HeadlineFeed, fault: str
) -> None:
    server.fault = fault  # type: ignore[assignment]
    with pytest.raises(SourceUnavailable):
        await feed.newest(5)


async def test_a_page_in_place_of_the_feed_is_refused(server: FakeFeed, feed: HeadlineFeed) -> None:
    server.fault = "wrong content"
    with pytest.raises(SourceError, match="content of type text/html"):
        await feed.newest(5)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="no web address"):
        HeadlineFeed("news", SystemClock())


def test_dates_of_any_zone_are_utc() -> None:
    text = "<rss><item><title>x</title><pubDate>Sun, 01 Mar 2026 09:00:00 {}</pubDate></item></rss>"
    for zone, hour in (("GMT", 9), ("+0200", 7), ("-0000", 9)):
        (found,) = headlines_of(text.format(zone).encode())
        assert found == Headline("x", datetime(2026, 3, 1, hour, tzinfo=UTC))


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=400), max_size=5)
)
def test_every_text_survives_the_feed(texts: list[str]) -> None:
    kept = [" ".join(text.split())[:MAX_HEADLINE_CHARS].strip() for text in texts]
    kept = [text for text in kept if text]
    if kept:
        assert [headline.text for headline in headlines_of(rss(texts, FIRST).encode())] == kept


@given(junk=st.binary(max_size=300))
def test_any_bytes_are_headlines_or_refused(junk: bytes) -> None:
    try:
        assert headlines_of(junk)
    except ValueError:
        return
