"""The running system takes the trials of its state folder in, and loses none while PostgreSQL is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from levibot.launch import trial_intake
from levibot.launch.trial_intake import TrialIntake
from levibot.settings import Settings
from levibot.stores.connect import open_ticks, open_trial_journal
from levibot.stores.embedded import EmbeddedServers
from tests.trial_books import trial

pytestmark = pytest.mark.stores


class Heard:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def step(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        return nullcontext(lambda _: None)

    def say(self, text: str, fields: Mapping[str, Any]) -> None:
        self.said.append(dict(fields))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A state folder whose servers ran once: their ports are known, and nothing listens there."""
    settings = Settings.load(home=tmp_path / "home", redis_url="redis://unused")
    servers = EmbeddedServers(settings)
    servers.start()
    yield settings
    servers.stop()


async def migrate(settings: Settings) -> None:
    ticks = await open_ticks(settings)
    await ticks.migrate()
    await ticks.close()


async def count(settings: Settings) -> int:
    ticks = await open_ticks(settings)
    n = await ticks.trials.count()
    await ticks.close()
    return n


def test_trials_come_in_when_the_store_is_there_and_wait_while_it_is_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(migrate(settings))
    journal, heard = open_trial_journal(settings), Heard()
    intake = TrialIntake(settings, heard)
    journal.add([trial(n=1), trial(n=2)])
    intake.turn()
    assert heard.said == [{"trials_sent": 2, "trials_taken": 0}]
    # Not at every turn of the launcher.
    journal.add([trial(n=3)])
    intake.turn()
    assert asyncio.run(count(settings)) == 2

    monkeypatch.setattr(trial_intake, "EVERY_S", 0.0)
    intake._due = 0.0
    away = settings.model_copy(update={"postgres_dsn": "postgresql://u:p@127.0.0.1:1/x"})
    intake._settings = away
    intake.turn()
    intake.turn()
    assert [list(said) for said in heard.said[1:]] == [["trials_wait"]]
    assert asyncio.run(count(settings)) == 2

    intake._settings = settings
    intake.turn()
    assert heard.said[2:] == [{"trials_sent": 1, "trials_taken": 0}]
    assert asyncio.run(count(settings)) == 3
    intake.close()
