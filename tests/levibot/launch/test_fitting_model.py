"""Which model a run goes on with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from levibot.launch.fitting_model import Wanted, activate_fitting_model
from levibot.stores.model_files import ModelFolder
from levibot.stores.registry import Registry

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
WANTED = Wanted("market", "view", ("BTCUSDT", "ETHUSDT"), begins_at=NOON)
FITS = {
    "market_id": "market",
    "view_version": "view",
    "symbols": ["BTCUSDT", "ETHUSDT"],
    "train_end": "2024-05-01T12:00:00+00:00",
}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(ModelFolder(tmp_path / "models"))


def publish(registry: Registry, **other: Any) -> str:
    return registry.publish(FITS | other, {"model.txt": b"tree\n"})


def test_without_a_model_none_is_live(registry: Registry) -> None:
    assert not activate_fitting_model(registry, WANTED)
    assert registry.active() is None


def test_a_fitting_live_version_stays_although_a_newer_one_is_there(registry: Registry) -> None:
    registry.activate(publish(registry), "first")
    publish(registry)
    assert activate_fitting_model(registry, WANTED)
    assert registry.active() == "v1.0.0"
    assert len(registry.history()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"market_id": "another"},
        {"view_version": "another"},
        {"symbols": ["BTCUSDT"]},
        {"symbols": ["ETHUSDT", "BTCUSDT"]},
        # The replay begins before the model's last bar: it would know the future.
        {"train_end": "2024-05-01T13:00:00+00:00"},
        {"train_end": "soon"},
        {"train_end": "2024-05-01T12:00:00"},
    ],
)
def test_what_does_not_fit_is_replaced_by_what_does(registry: Registry, other: dict[str, Any]) -> None:
    fitting = publish(registry)
    registry.activate(publish(registry, **other), "of another run")
    assert activate_fitting_model(registry, WANTED)
    assert registry.active() == fitting


def test_a_version_whose_files_are_broken_is_passed_over(registry: Registry, tmp_path: Path) -> None:
    for _ in range(3):
        registry.activate(publish(registry), "trained")
    for version in ("v1.0.1", "v1.0.2"):
        (tmp_path / "models" / version / "model.txt").write_bytes(b"Tree\n")
    assert activate_fitting_model(registry, WANTED)
    assert registry.active() == "v1.0.0"


def test_a_broken_pointer_is_set_anew(registry: Registry, tmp_path: Path) -> None:
    registry.activate(publish(registry), "trained")
    (tmp_path / "models" / "active.json").write_text("{")
    assert activate_fitting_model(registry, WANTED)
    assert registry.active() == "v1.0.0"
    assert registry.history()[-1]["replaced"] is None
