"""`up` on Redis servers of the user's own: what it refuses before anything is built on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from levibot.stores.server_process import LOOPBACK, free_port
from tests.levibot.conftest import Command
from tests.servers.debian_redis import RedisNode, redis_programs
from tests.servers.sentinel import OPS

pytestmark = pytest.mark.stores


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RedisNode]:
    """A server that evicts."""
    node = RedisNode(redis_programs("valkey"), tmp_path / "cache", f'include "{OPS / "cache.conf"}"\n')
    node.start()
    yield node
    node.stop()


def test_a_server_that_evicts_is_no_place_for_what_must_be_kept(
    levibot: Command, cache: RedisNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEVIBOT_REDIS_URL", cache.url)
    monkeypatch.setenv("LEVIBOT_HTTP_PORT", str(free_port()))
    refused = levibot("up")
    assert refused.code == 2
    assert "maxmemory-policy is allkeys-lfu with maxmemory 268435456, and must be noeviction" in refused.err


def test_a_cache_that_does_not_answer_is_named(levibot: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVIBOT_REDIS_CACHE_URL", f"redis://{LOOPBACK}:{free_port()}/0")
    monkeypatch.setenv("LEVIBOT_HTTP_PORT", str(free_port()))
    refused = levibot("up")
    assert refused.code == 1
    assert "unset LEVIBOT_REDIS_CACHE_URL" in refused.err


def test_a_wrong_url_is_told_without_its_password(levibot: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVIBOT_REDIS_URL", "redis+sentinel://:hush@h1:1,h2:2")
    monkeypatch.setenv("LEVIBOT_HTTP_PORT", str(free_port()))
    refused = levibot("up")
    assert refused.code == 2
    assert "The Redis URL redis+sentinel://***@h1:1,h2:2 cannot be used" in refused.err
    assert "hush" not in refused.err + refused.out
