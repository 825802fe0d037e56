"""Every test here that asks for a server runs on the embedded valkey and on Debian's Redis 7.0."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from levibot.stores.redis import open_redis
from tests.servers.debian_redis import RedisNode, RedisPrograms, redis_programs

# What the embedded server is started with is tested in tests/levibot/stores/test_embedded.py.
CONFIG = 'appendonly yes\nappendfsync no\nsave ""\n'


@pytest.fixture(scope="session", params=["valkey", pytest.param("debian", marks=pytest.mark.debian)])
def programs(request: pytest.FixtureRequest) -> RedisPrograms:
    return redis_programs(request.param)


@pytest.fixture(scope="session")
def shared_node(programs: RedisPrograms, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNode]:
    """One server for all tests of a kind. Do not kill it."""
    node = RedisNode(programs, tmp_path_factory.mktemp(f"shared-{programs.name}") / "node", CONFIG)
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture(scope="session")
def redis_url(shared_node: RedisNode) -> str:
    return shared_node.url


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    """Our client of the shared server."""
    opened = open_redis(redis_url, timeout_s=2.0)
    yield opened
    await opened.aclose()


@pytest.fixture
def node(programs: RedisPrograms, tmp_path: Path) -> Iterator[RedisNode]:
    """A server of this test alone, not started yet."""
    own = RedisNode(programs, tmp_path / "node", CONFIG)
    yield own
    own.stop()
