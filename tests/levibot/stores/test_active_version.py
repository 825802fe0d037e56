"""Following the registry's pointer while the registry comes and goes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from levibot.clock import ManualClock
from levibot.errors import RegistryError, StoreUnavailable
from levibot.stores.active_version import ActiveVersion
from levibot.stores.model_files import ModelFolder
from levibot.stores.registry import Registry

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class FarFolder(ModelFolder):
    """A folder that may be away, like a bucket, and counts how often it is asked."""

    def __init__(self, root: Path, poll_s: float = 0.0) -> None:
        super().__init__(root)
        self.poll_s = poll_s
        self.is_away = False
        self.n_asked = 0

    def newest_activation(self) -> bytes | None:
        self.n_asked += 1
        if self.is_away:
            raise StoreUnavailable("The bucket did not answer.")
        return super().newest_activation()


@pytest.fixture
def folder(tmp_path: Path) -> FarFolder:
    return FarFolder(tmp_path / "models")


@pytest.fixture
def registry(folder: FarFolder) -> Registry:
    registry = Registry(folder)
    for _ in range(2):
        registry.publish({}, {"model.txt": b"tree\n"})
    registry.activate("v1.0.0", "first")
    return registry


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def active(registry: Registry, clock: ManualClock) -> ActiveVersion:
    return ActiveVersion(registry, timeout_s=5.0, clock=clock)


async def test_a_near_registry_is_read_each_time(registry: Registry, active: ActiveVersion) -> None:
    assert (await active.get()).value == "v1.0.0"
    registry.activate("v1.0.1", "second")
    assert (await active.get()).value == "v1.0.1"


async def test_before_the_first_activation_none_serves(tmp_path: Path) -> None:
    assert (await ActiveVersion(Registry(FarFolder(tmp_path)), timeout_s=5.0).get()).value is None


async def test_a_far_registry_is_asked_once_in_its_time(folder: FarFolder, registry: Registry) -> None:
    folder.poll_s = 60.0
    active = ActiveVersion(registry, timeout_s=5.0)
    before = folder.n_asked
    for _ in range(20):
        assert (await active.get()).value == "v1.0.0"
    assert folder.n_asked == before + 1


async def test_the_last_answer_stands_while_the_registry_is_away(
    folder: FarFolder, registry: Registry, active: ActiveVersion, clock: ManualClock
) -> None:
    await active.get()
    folder.is_away = True
    # More often than its circuit bears.
    for minute in range(1, 11):
        clock.advance(60.0)
        answer = await active.get()
        assert (answer.value, answer.link, answer.age_s) == ("v1.0.0", "memory", 60.0 * minute)
        assert answer.problems[0]
    assert active._guard.state == "opened"


async def test_a_registry_that_is_back_is_believed_again(
    folder: FarFolder, registry: Registry, active: ActiveVersion
) -> None:
    await active.get()
    folder.is_away = True
    assert (await active.get()).is_fallback
    folder.is_away = False
    registry.activate("v1.0.1", "meanwhile")
    answer = await active.get()
    assert (answer.value, answer.link, answer.is_fallback) == ("v1.0.1", "registry", False)


async def test_a_registry_that_never_answered_is_an_error(folder: FarFolder, active: ActiveVersion) -> None:
    folder.is_away = True
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await active.get()


async def test_a_broken_pointer_is_no_absence(folder: FarFolder, active: ActiveVersion) -> None:
    await active.get()
    (folder.root / "active.json").write_text("{")
    with pytest.raises(RegistryError, match="does not name a version"):
        await active.get()
