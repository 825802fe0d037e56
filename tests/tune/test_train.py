"""What the training job reads and how it fails, without a cluster. A whole job runs in tests/system."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import actors
from actors import feature_history
from levibot.clock import ManualClock
from levibot.errors import DataError, RegistryConflict
from levibot.features.views import CORE
from levibot.learning.history import HistoryLoader
from levibot.learning.labels import label_name
from levibot.learning.past import ComputedPast
from levibot.learning.promotion import Decision
from levibot.learning.search.parameters_file import FoundParameters
from levibot.learning.search.pareto import Score
from levibot.learning.search.space import SPACES
from levibot.learning.training import hash_panel
from levibot.market.bars import Bars, Panel
from levibot.market.price_process import MARKET_START
from levibot.market.simulator import SimulatedSource
from levibot.settings import Settings
from levibot.stores.connect import open_registry
from levibot.stores.export_writer import write_export
from levibot.stores.exports import Export
from levibot.stores.offline import OfflineStore
from levibot.stores.ticks import TickStore
from tune import training_data
from tune.registration import Made, register, rival_of
from tune.train import main, read_panel, read_parameters
from tune.training_data import read_export

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


@pytest.fixture
async def history_export(
    tick_store: TickStore, settings: Settings, tmp_path: Path
) -> tuple[Path, dict[str, Bars]]:
    """An export of a loaded history, and the bars that it was made of."""
    source = SimulatedSource(SYMBOLS, HOUR, seed=7, edge=0.03)
    bars = {s: source.bars(s, MARKET_START, MARKET_START + 1500 * HOUR) for s in SYMBOLS}
    await tick_store.write_many(settings.market_id, bars.values())
    clock = ManualClock(MARKET_START + 1500 * HOUR)
    store = OfflineStore.open(tmp_path / "history", settings.market_id, clock)
    place = {"market_id": settings.market_id, "symbols": SYMBOLS, "interval": HOUR, "view": CORE}
    await HistoryLoader(tick_store, store, **place).load(clock.now())
    span = (MARKET_START, clock.now() + HOUR, clock.now())
    of = {"market_id": settings.market_id, "bars": bars}
    write_export(store, tmp_path / "export", CORE, [label_name(8), label_name(24)], *span, **of)
    store.close()
    return tmp_path / "export", bars


@pytest.mark.stores
async def test_an_export_gives_the_panel_and_the_features_that_the_bars_give(
    history_export: tuple[Path, dict[str, Bars]], settings: Settings
) -> None:
    folder, _ = history_export
    until = MARKET_START + 1400.5 * HOUR
    data = read_export(folder, CORE, settings.market_id, until)
    panel = await read_panel(settings, until)
    assert hash_panel(data.known.panel) == hash_panel(panel)
    ours, theirs = data.known, ComputedPast(panel, CORE, (8, 24)).at(until)
    np.testing.assert_allclose(ours.features, theirs.features, rtol=1e-9, atol=1e-12)
    for mine, yours in zip(ours.labels, theirs.labels, strict=True):
        # The export knows labels that were out later than `until`; they are not taken.
        np.testing.assert_allclose(mine.values, yours.values, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(mine.available_at, yours.available_at)
    assert data.metadata == {
        "training_data": "export",
        "export_data_hash": Export(folder).manifest.data_hash,
    }


@pytest.mark.stores
async def test_an_export_of_something_else_is_refused(
    history_export: tuple[Path, dict[str, Bars]], settings: Settings, tmp_path: Path
) -> None:
    folder, _ = history_export
    until = MARKET_START + 1400 * HOUR
    with pytest.raises(DataError, match=r"is of market simulated.*, not another"):
        read_export(folder, CORE, "another", until)
    with pytest.raises(DataError, match="no bars that are finished at"):
        read_export(folder, CORE, settings.market_id, MARKET_START)
    with pytest.raises(DataError, match="2 bars without features"):
        read_export(without_rows(folder), CORE, settings.market_id, until)
    with pytest.raises(DataError, match="has no labels forward_return_24"):
        read_export(without_labels(folder), CORE, settings.market_id, until)
    with pytest.raises(DataError, match="is no export"):
        read_export(tmp_path / "nowhere", CORE, settings.market_id, until)


def without_rows(folder: Path) -> Path:
    """A copy whose manifest and files lack the last row of January of each symbol."""
    copy = folder.with_name("cut")
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for file in manifest["files"]:
        if (file["part"], file["month"]) == ("features", "2020-01"):
            path = copy / file["path"]
            table = pq.read_table(path)
            pq.write_table(table.slice(0, table.num_rows - 1), path)
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def without_labels(folder: Path) -> Path:
    """A copy that was written with the labels of another horizon alone."""
    copy = folder.with_name("unlabelled")
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"labels": [label_name(8)]}))
    return copy


@pytest.mark.stores
async def test_a_job_that_is_run_again_makes_no_second_version(redis_url: str, tmp_path: Path) -> None:
    settings = Settings.load(
        home=tmp_path,
        postgres_dsn="postgresql://not.used/x",
        redis_url=redis_url,
        models_url=str(tmp_path / "models"),
    )
    made = Made({"seed": 7}, {"model.txt": b"tree\n"})
    for _ in range(2):
        assert await register(settings, made, "activate", not_asked) == "v1.0.0"
    assert await register(settings, replace(made, metadata={"seed": 8}), "publish", not_asked) == "v1.1.0"
    registry = open_registry(settings)
    assert [info.version for info in registry.versions()] == ["v1.0.0", "v1.1.0"]
    assert [entry["version"] for entry in registry.history()] == ["v1.0.0"]


def not_asked() -> Decision:
    pytest.fail("Nobody asked for a decision.")


@pytest.mark.stores
async def test_what_the_rule_decides_is_done_once_and_kept_with_the_version(
    redis_url: str, tmp_path: Path
) -> None:
    settings = Settings.load(home=tmp_path, postgres_dsn="postgresql://not.used/x", redis_url=redis_url)
    registry = open_registry(settings)
    assert rival_of(registry) is None
    asked: list[str] = []

    async def learn(seed: int, is_promoted: bool, reason: str) -> str:
        def judge() -> Decision:
            asked.append(reason)
            return Decision(is_promoted, reason, {"net_sharpe": 0.5, "deflated_sharpe": {"n_trials": 3}})

        return await register(settings, Made({"seed": seed}, {"model.txt": b"tree\n"}), "promote", judge)

    first = await learn(1, True, "the first")
    kept_back = await learn(2, False, "not better")
    # Run again, also with another outcome: what was decided stands.
    assert await learn(2, True, "asked again") == kept_back
    better = await learn(3, True, "better")
    assert (registry.active(), asked) == (better, ["the first", "not better", "better"])
    assert [(e["version"], e["reason"], e["decision"]["version"]) for e in registry.history()] == [
        (first, "the first", first),
        (first, "not better", kept_back),
        (better, "better", better),
    ]
    stored = registry.load(kept_back)
    assert stored.metadata["promotion"] == {
        "is_promoted": False,
        "reason": "not better",
        "net_sharpe": 0.5,
        "deflated_sharpe": {"n_trials": 3},
    }
    assert (stored.metadata["metrics"], stored.metadata["trials"]) == ({"net_sharpe": 0.5}, {"n_trials": 3})
    assert "| reason | not better |" in stored.card
    # What serves is no signal model here, and so no rival that could be held against.
    rival = rival_of(registry)
    assert rival is not None
    assert (rival.version, rival.model) == (better, None)
    assert "not those of a signal model" in rival.problem


@pytest.mark.stores
async def test_a_decision_that_was_overtaken_changes_nothing(redis_url: str, tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, postgres_dsn="postgresql://not.used/x", redis_url=redis_url)
    registry = open_registry(settings)
    by_hand = registry.publish({"seed": 0}, {"model.txt": b"tree\n"})

    def judge() -> Decision:
        registry.activate(by_hand, "meanwhile")
        return Decision(True, "the first", {})

    with pytest.raises(RegistryConflict, match=f"was not activated: {by_hand} came first"):
        await register(settings, Made({"seed": 1}, {"model.txt": b"tree\n"}), "promote", judge)
    assert [entry["version"] for entry in registry.history()] == [by_hand]


def test_the_actor_is_asked_by_the_name_that_it_has() -> None:
    assert training_data.NAMESPACE == actors.NAMESPACE
    assert training_data.HISTORY == feature_history.NAME
    assert callable(feature_history.FeatureHistory.export_until)


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


def test_parameters_that_were_found_on_other_features_are_refused(tmp_path: Path) -> None:
    space = SPACES["linear"]
    candidate = space.candidate({**space.defaults, "training.linear.l2": 0.5})
    on = {"view": CORE.name, "view_version": CORE.version, "data_hash": "d"}
    found = FoundParameters(candidate, "linear", 3, Score(1.0, -0.1), on)
    found.write(tmp_path / "found.json")
    assert read_parameters(tmp_path / "found.json") == found
    replace(found, found_on=on | {"view_version": "old"}).write(tmp_path / "old.json")
    with pytest.raises(DataError, match=r"found on the features core old; .* Search again\."):
        read_parameters(tmp_path / "old.json")
