"""Redis addresses: what they mean, and refusals that show no password."""

from __future__ import annotations

import pytest

from levibot.errors import SettingsError
from levibot.stores.redis import has_replicas, open_redis
from levibot.stores.redis_url import SentinelUrl, parse_sentinel, redacted


def test_a_full_sentinel_url() -> None:
    url = (
        "redis+sentinel://us%40er:p%3Aa%2Fs@h1:1,[::1]:2,h3/main/4?sentinel_username=s&sentinel_password=t%26"
    )
    assert parse_sentinel(url) == SentinelUrl(
        (("h1", 1), ("::1", 2), ("h3", 26379)), "main", 4, "us@er", "p:a/s", "s", "t&"
    )


def test_a_short_sentinel_url() -> None:
    assert parse_sentinel("redis+sentinel://h/main") == SentinelUrl((("h", 26379),), "main")
    assert parse_sentinel("redis+sentinel://:p@h/main").password == "p"


def test_no_password_is_in_a_representation() -> None:
    parsed = parse_sentinel("redis+sentinel://u:hush@h/main?sentinel_password=quiet")
    assert "hush" not in repr(parsed)
    assert "quiet" not in repr(parsed)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://u:hush@h1:1", "the service, after the Sentinels, is no name"),
        ("redis+sentinel://u:hush@h1:1,/main", "Sentinel 2 is no host:port"),
        ("redis+sentinel://u:hush@h1:1;h2:2/main", "Sentinel 1 is no host:port"),
        ("redis+sentinel://u:hush@h1:99999/main", "Sentinel 1 is no host:port"),
        ("redis+sentinel://u:hush@h1:0/main", "Sentinel 1 is no host:port"),
        ("redis+sentinel://:hush/main", "Sentinel 1 is no host:port"),
        ("redis+sentinel://u:hush@h1/main/one", "the database is no number"),
        ("redis+sentinel://u:hush@h1/main?sentinel_pw=hush", "an option is none of"),
        ("redis+sentinel://u:12?hush@h1/main", "is no name"),
        ("redis://u:hush@h1:hush", "host or port cannot be read"),
        ("redis://u:hush", "host or port cannot be read"),
        ("redis://:12/hush@h1", "no host"),
        ("redis://u:hush@/0", "no host"),
        ("redis://u:hush@h1/one", "the database is no number"),
        ("redis://u:hush@h1?db=one", "Invalid value for 'db'"),
        ("rediss://u:hush@[h1/0", "host or port cannot be read"),
        ("unix://u:hush@", "no path of a socket"),
        ("http://u:hush@h1", "must specify one of the following schemes"),
        ("u:hush@h1", "must specify one of the following schemes"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        open_redis(url, timeout_s=1.0)
    assert reason in refusal.value.message
    shown: BaseException | None = refusal.value
    while shown is not None:
        assert "hush" not in str(shown)
        shown = None if shown.__suppress_context__ else shown.__context__


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://u:p@h:1/2", "rediss://h:1", "unix:///run/redis.sock?db=1", "redis://[::1]:1/0"],
)
def test_plain_urls_are_taken(url: str) -> None:
    assert not has_replicas(open_redis(url, timeout_s=1.0))


def test_a_sentinel_url_is_a_group() -> None:
    assert has_replicas(open_redis("redis+sentinel://h/main", timeout_s=1.0))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h:1/2?password=x", "redis://***@h:1/2"),
        ("redis+sentinel://h1,h2/main", "redis+sentinel://h1,h2/main"),
        ("redis://u:p@x@h", "redis://***@h"),
        ("redis://u:secret", "redis://***"),
        ("redis://u:12?secret@h", "redis://***"),
        ("p@h", "(without a scheme)"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown
