"""The tone of the news, for the poll: the newest headlines, each rated once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from levibot.errors import SourceError
from levibot.market.headlines import Headline, HeadlineFeed, newest_of
from levibot.market.news import MAX_HEADLINES, NAME, HeadlineSentiment, NewsClient
from levibot.market.observations import Reading
from levibot.market.outside_source import Newest
from levibot.market.side_series import NEWS_SENTIMENT
from levibot.market.source_status import SourceStatus
from levibot.stores.cache import JSON, Cache, Codec

# A headline is among the newest for hours, and what was said of it stays true.
RATING_LIFE_S = 2 * 86_400.0
RATINGS_AT_ONCE = 4

RATING_CODEC: Codec[HeadlineSentiment] = Codec(
    lambda rating: JSON.encode(asdict(rating)),
    lambda text: HeadlineSentiment(**{**(fields := JSON.decode(text)), "symbols": tuple(fields["symbols"])}),
)


class NewsTone:
    """Mean score of the newest headlines, weighted by their relevance, by symbol.

    A symbol hears the headlines that name it, and those that name none. Each headline is asked and paid for
    once in the life of `ratings`, by all processes and over restarts, as long as Redis remembers. The
    clients are closed with this.
    """

    def __init__(
        self,
        feed: HeadlineFeed,
        client: NewsClient,
        ratings: Cache[HeadlineSentiment],
        symbols: Sequence[str],
        *,
        every_s: float,
    ) -> None:
        self._feed = feed
        self._client = client
        self._symbols = tuple(symbols)
        self._every_s = every_s
        self._ratings = ratings
        self._places = asyncio.Semaphore(RATINGS_AT_ONCE)

    @property
    def name(self) -> str:
        return NAME

    @property
    def every_s(self) -> float:
        return self._every_s

    async def status(self) -> SourceStatus:
        return await self._client.status()

    async def look(self, newest: Newest) -> list[Reading]:  # noqa: ARG002 - the feed says what is newest
        headlines = await self._feed.newest(MAX_HEADLINES)
        rated = await asyncio.gather(*map(self._rating, headlines), return_exceptions=True)
        for outcome in rated:
            # All have ended: what was paid for is remembered, and the next look asks for the rest only.
            if isinstance(outcome, BaseException):
                raise outcome
        ratings = [outcome for outcome in rated if isinstance(outcome, HeadlineSentiment)]
        at = newest_of(headlines)
        return [Reading(NEWS_SENTIMENT, symbol, at, tone_of(symbol, ratings)) for symbol in self._symbols]

    async def close(self) -> None:
        await self._feed.close()
        await self._client.close()

    async def _rating(self, headline: Headline) -> HeadlineSentiment:
        async def load() -> HeadlineSentiment:
            async with self._places:
                (rating,) = await self._client.fetch_sentiment([headline.text])
            return rating

        cached = await self._ratings.get_or_load(self._key(headline), load)
        if cached.value is None:
            raise SourceError(f"{NAME} has no rating of {headline.text!r}.")
        return cached.value

    def _key(self, headline: Headline) -> str:
        # Another model, or other symbols to choose from, says something else.
        return f"{self._client.model}:{','.join(self._symbols)}:{headline.key}"


def tone_of(symbol: str, ratings: Sequence[HeadlineSentiment]) -> float | None:
    """Mean score by relevance of what names the symbol or none; None where nothing is relevant."""
    heard = [rating for rating in ratings if not rating.symbols or symbol in rating.symbols]
    weight = sum(rating.relevance for rating in heard)
    return sum(rating.relevance * rating.score for rating in heard) / weight if weight > 0.0 else None
