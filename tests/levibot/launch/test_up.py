"""A run's parts that need no Ray. The whole of it is started in tests/system."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from levibot.launch.replay_position import write_position
from levibot.launch.up import Run
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings

START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(days=10)


class Quiet:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[Mapping[str, Any]] = []

    def step(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        return nullcontext(lambda _: None)

    def say(self, text: str, fields: Mapping[str, Any]) -> None:
        self.said.append(fields)


class NobodyListens:
    """The output of a run whose terminal is gone."""

    def step(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        raise BrokenPipeError(title)

    def say(self, text: str, fields: Mapping[str, Any]) -> None:
        raise BrokenPipeError(text)


class RecordedMarket(SimulatedSource):
    """A market that ends."""

    def extent(self) -> tuple[datetime, datetime | None]:
        return START - timedelta(days=700), END


@pytest.mark.stores
def test_the_stores_are_stopped_although_nobody_listens(tmp_path: Path) -> None:
    run = Run(Settings(home=tmp_path, postgres_dsn="postgresql://not.used/x"), NobodyListens())
    run._servers.start()
    assert run._servers.pids()
    with pytest.raises(BrokenPipeError):
        run.stop()
    assert run._servers.pids() == {}


@pytest.mark.parametrize(
    ("reached", "begins_at"),
    [
        (None, START),
        (START + timedelta(days=3), START + timedelta(days=3)),
        (END, START),
        (END + timedelta(days=400), START),
    ],
)
def test_a_second_run_goes_on_where_the_first_stopped_or_begins_again_at_the_end(
    tmp_path: Path, reached: datetime | None, begins_at: datetime
) -> None:
    settings = Settings(home=tmp_path, replay_start=START)
    if reached is not None:
        write_position(tmp_path, settings.market_id, reached)
    steps = Quiet()
    source = RecordedMarket(settings.symbols, settings.interval, settings.seed, settings.edge)
    begin, with_clock = Run(settings, steps)._with_clock(source)
    assert (begin, with_clock.replay_start) == (begins_at, begins_at)
    is_over = reached is not None and reached >= END
    assert steps.said == ([{"replay_begins_again": START.isoformat()}] if is_over else [])
