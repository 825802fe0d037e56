"""Writes to the registry that are done once: on a real Redis, whoever repeats, fails or is killed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from levibot.errors import NotReady, RegistryError
from levibot.resilience.idempotency import Idempotency
from levibot.stores.model_files import ModelFolder
from levibot.stores.redis import open_redis
from levibot.stores.registry import Registry
from levibot.stores.registry_writes import RegistryWrites
from levibot.stores.server_process import free_port
from tests.levibot.stores.registry_writer import FILES, METADATA

pytestmark = pytest.mark.stores

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    own = open_redis(redis_url, timeout_s=5.0)
    yield own
    await own.aclose()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(ModelFolder(tmp_path / "models"))


def writes_of(
    registry: Registry, client: Redis, *, lease_s: float = 5.0, wait_s: float = 10.0
) -> RegistryWrites:
    return RegistryWrites(registry, Idempotency(client, ttl_s=60.0, lease_s=lease_s, wait_s=wait_s))


def versions(registry: Registry) -> list[str]:
    return [info.version for info in registry.versions()]


def activations(registry: Registry) -> list[str]:
    return [entry["version"] for entry in registry.history()]


class Counts(Registry):
    """A registry that counts its publications, of which the first `fails` end in an error."""

    def __init__(self, files: ModelFolder, fails: int = 0) -> None:
        super().__init__(files)
        self.n_published = 0
        self._fails = fails

    def publish(self, metadata: Mapping[str, Any], files: Mapping[str, bytes], key: str | None = None) -> str:
        self.n_published += 1
        if self.n_published <= self._fails:
            raise RegistryError("planted")
        return super().publish(metadata, files, key)


async def test_a_repeat_gets_the_first_result(client: Redis, tmp_path: Path) -> None:
    registry = Counts(ModelFolder(tmp_path))
    first = await writes_of(registry, client).publish(METADATA, FILES)
    assert (first.result, first.is_repeat) == ("v1.0.0", False)
    assert (await writes_of(registry, client).publish({"seed": 8}, FILES)).result == "v1.1.0"
    repeat = await writes_of(registry, client).publish(dict(METADATA), dict(FILES))
    assert (repeat.result, repeat.is_repeat) == ("v1.0.0", True)
    assert (registry.n_published, versions(registry)) == (2, ["v1.0.0", "v1.1.0"])


async def test_of_many_jobs_at_once_one_publishes_and_one_activates(client: Redis, tmp_path: Path) -> None:
    registry = Counts(ModelFolder(tmp_path))

    async def job() -> bool:
        writes = writes_of(registry, client)
        published = await writes.publish(METADATA, FILES)
        await writes.activate(published.result, "trained")
        return published.is_repeat

    assert sorted(await asyncio.gather(*(job() for _ in range(6)))) == [False] + [True] * 5
    assert (registry.n_published, versions(registry), activations(registry)) == (1, ["v1.0.0"], ["v1.0.0"])


async def test_a_publication_that_fails_midway_frees_the_key(client: Redis, tmp_path: Path) -> None:
    registry = Counts(ModelFolder(tmp_path), fails=1)
    # Far beyond this test: it is not the lease that frees it.
    writes = writes_of(registry, client, lease_s=600.0, wait_s=0.0)
    with pytest.raises(RegistryError, match="planted"):
        await writes.publish(METADATA, FILES)
    assert (await writes.publish(METADATA, FILES)).result == "v1.0.0"
    assert registry.n_published == 2


def start_job(url: str, folder: Path, lease_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.levibot.stores.registry_writer", url, str(folder), str(lease_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


async def test_a_job_that_is_killed_midway_frees_the_key(
    client: Redis, redis_url: str, registry: Registry, tmp_path: Path
) -> None:
    lease_s = 1.0
    job = start_job(redis_url, tmp_path / "models", lease_s)
    try:
        assert job.stdout is not None
        assert await asyncio.to_thread(job.stdout.readline) == "begun\n"
        with pytest.raises(NotReady, match="in progress"):
            await writes_of(registry, client, lease_s=lease_s, wait_s=0.0).publish(METADATA, FILES)
    finally:
        job.kill()
        job.communicate()
    done = await writes_of(registry, client, lease_s=lease_s).publish(METADATA, FILES)
    assert (done.result, done.is_repeat, versions(registry)) == ("v1.0.0", False, ["v1.0.0"])


async def test_an_activation_is_made_once_and_again_after_another_served(
    client: Redis, registry: Registry
) -> None:
    writes = writes_of(registry, client)
    first = (await writes.publish(METADATA, FILES)).result
    second = (await writes.publish({"seed": 8}, FILES)).result
    for version in (first, first, second, first, first):
        await writes.activate(version, "asked")
    assert activations(registry) == [first, second, first]
    with pytest.raises(RegistryError, match="There is no version"):
        await writes.activate("v9.9.9", "asked")
    assert registry.active() == first


async def test_a_registry_that_was_emptied_is_written_again(
    client: Redis, registry: Registry, tmp_path: Path
) -> None:
    writes = writes_of(registry, client)
    await writes.activate((await writes.publish(METADATA, FILES)).result, "trained")
    shutil.rmtree(tmp_path / "models")
    # What Redis remembers as v1.0.0 is another content now.
    registry.publish({"seed": 8}, FILES)
    again = await writes.publish(METADATA, FILES)
    assert (again.result, again.is_repeat) == ("v1.1.0", False)
    assert registry.load("v1.1.0").metadata == METADATA
    await writes.activate("v1.0.0", "trained")
    assert registry.active() == "v1.0.0"


async def test_without_redis_the_version_is_published_and_the_log_says_so(registry: Registry) -> None:
    away = open_redis(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.5)
    writes = writes_of(registry, away)
    try:
        with capture_logs() as logs:
            first = await writes.publish(METADATA, FILES)
            await writes.activate(first.result, "trained")
        # Its manifest has the key too.
        assert (await writes.publish(METADATA, FILES)).result == first.result == "v1.0.0"
    finally:
        await away.aclose()
    said = [entry["write"] for entry in logs if "without its idempotency key" in entry["event"]]
    assert said == ["publish", "activate"]
    assert (versions(registry), registry.active()) == (["v1.0.0"], "v1.0.0")
