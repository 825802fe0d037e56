"""Fixtures for every room: one state folder and one set of real servers a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from levibot.settings import Settings
from levibot.stores.embedded import EmbeddedServers, endpoints

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
