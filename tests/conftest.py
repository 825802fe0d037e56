"""Fixtures for every room: one state folder and one set of real servers a session."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import settings as hypothesis_settings

from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers, endpoints
from levibot.stores.ticks import TickStore
from tests.databases import drop_database

# Drills stand in several folders, and make one page.
pytest_plugins = ["tests.faults.plugin"]

# One example more or less must not depend on how busy the machine is.
hypothesis_settings.register_profile(
    "levibot", deadline=None, max_examples=50, derandomize="CI" in os.environ
)
hypothesis_settings.load_profile("levibot")


@pytest.fixture(scope="session")
def settings_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the session's servers."""
    return tmp_path_factory.mktemp("levibot")


@pytest.fixture(scope="session")
def servers(settings_home: Path) -> Iterator[EmbeddedServers]:
    """The session's servers. Do not kill them: a test of faults starts its own."""
    running = EmbeddedServers(Settings.load(home=settings_home))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def redis_url(servers: EmbeddedServers, settings_home: Path) -> str:
    return endpoints(Settings.load(home=settings_home)).redis_url


@pytest.fixture(scope="session")
def postgres_dsn(servers: EmbeddedServers, settings_home: Path) -> str:
    return endpoints(Settings.load(home=settings_home)).postgres_dsn


@pytest.fixture
async def tick_store(postgres_dsn: str) -> AsyncIterator[TickStore]:
    """A migrated tick store in a database of its own."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(postgres_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        store = await TickStore.open(postgres_dsn.rsplit("/", 1)[0] + f"/{name}")
        await store.migrate()
        yield store
        await store.close()
        await drop_database(admin, name)
    finally:
        await admin.close()
