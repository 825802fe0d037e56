"""What the training job reads and how it fails, without a cluster. A whole job runs in tests/system."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from levibot.errors import DataError
from levibot.market.bars import Bars, Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.ticks import TickStore
from tune.train import main, read_panel

HOUR = timedelta(hours=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job has its own environment and sets up the logs of its process."""
    for name in [name for name in os.environ if name.startswith("LEVIBOT_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def settings(tick_store: TickStore, postgres_dsn: str) -> Settings:
    async with tick_store._client.connection("which_database") as (db, _):
        database = await db.fetchval("SELECT current_database()")
    dsn = postgres_dsn.rsplit("/", 1)[0] + f"/{database}"
    return Settings.load(postgres_dsn=dsn, redis_url="redis://not.used/0", symbols=",".join(SYMBOLS))


@pytest.fixture
def market() -> dict[str, Bars]:
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    return {s: source.bars(s, MARKET_START, MARKET_START + 40 * HOUR) for s in SYMBOLS}


@pytest.mark.stores
async def test_training_reads_what_is_finished_and_nothing_later(
    tick_store: TickStore, settings: Settings, market: dict[str, Bars]
) -> None:
    await tick_store.write_many(settings.market_id, market.values())
    await tick_store.write_many("another market", market.values())
    whole = Panel.align(market)
    for hours, n_bars in ((100, 40), (30, 30), (30.5, 30), (29.999, 29)):
        panel = await read_panel(settings, MARKET_START + hours * HOUR)
        assert panel.symbols == SYMBOLS
        assert len(panel) == n_bars
        np.testing.assert_array_equal(panel.close, whole.close[:n_bars])


@pytest.mark.stores
async def test_without_bars_the_job_says_how_to_load_them(
    tick_store: TickStore, settings: Settings, market: dict[str, Bars]
) -> None:
    with pytest.raises(DataError, match=r"No bars of simulated.* are stored\. .* levibot ingest"):
        await read_panel(settings, MARKET_START + 100 * HOUR)
    await tick_store.write_many(settings.market_id, market.values())
    with pytest.raises(DataError, match="No bars"):
        await read_panel(settings, MARKET_START)


CLOCK = {"LEVIBOT_REPLAY_START": "2024-01-01", "LEVIBOT_REPLAY_WALL_START": "2024-01-01"}


@pytest.mark.parametrize(
    ("variables", "exit_code", "line"),
    [
        ({"LEVIBOT_SEED": "x"}, 2, "train: LEVIBOT_SEED is 'x': "),
        ({}, 2, "train: The replay clock is not set. "),
        (CLOCK, 1, "train: The embedded redis and postgres was never started: "),
    ],
)
def test_a_job_that_cannot_run_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    variables: dict[str, str],
    exit_code: int,
    line: str,
) -> None:
    for name, value in {"LEVIBOT_HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == exit_code
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(line)
