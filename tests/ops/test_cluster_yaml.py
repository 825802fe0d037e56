"""cluster.yaml as `ray up` reads it, without a cloud."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    loaded: Config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def check(config: Config) -> Config:
    """What `ray up` does with a file before it asks the provider for anything."""
    prepared: Config = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_cluster(config: Config) -> None:
    nodes = check(config)["available_node_types"]
    assert nodes["head"]["max_workers"] == 0
    assert nodes["cpu_worker"]["min_workers"] < nodes["cpu_worker"]["max_workers"]
    assert nodes["gpu_worker"]["resources"]["GPU"] == 1


def _no_such_head(config: Config) -> None:
    config["head_node_type"] = "chief"


def _unknown_key(config: Config) -> None:
    config["setup_comands"] = config.pop("setup_commands")


def _node_without_resources(config: Config) -> None:
    del config["available_node_types"]["gpu_worker"]["resources"]


def _more_workers_than_allowed(config: Config) -> None:
    config["available_node_types"]["cpu_worker"]["min_workers"] = config["max_workers"] + 1


@pytest.mark.parametrize(
    "fault", [_no_such_head, _unknown_key, _node_without_resources, _more_workers_than_allowed]
)
def test_ray_refuses_a_broken_copy(config: Config, fault: Callable[[Config], None]) -> None:
    fault(config)
    with pytest.raises((ValueError, jsonschema.ValidationError)):
        check(config)


def test_nodes_get_every_package_and_the_pinned_dependencies(config: Config) -> None:
    mounts = config["file_mounts"]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = pyproject["tool"]["importlinter"]["root_packages"]
    # levibot/stores reads the SQL of ops/ in a checkout.
    wanted = {*packages, "ops", "requirements.lock"}
    assert wanted | {"cluster.env"} == set(mounts.values())
    assert all((ROOT / source).exists() for source in wanted)
    assert all(target == f"~/levibot/{source}" for target, source in mounts.items() if source in wanted)
    assert any("-r ~/levibot/requirements.lock" in command for command in config["setup_commands"])


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_starts_ray_with_the_settings_and_the_packages(config: Config, commands: str) -> None:
    start = config[commands][-1]
    before_ray, ray, _ = start.partition("ray start")
    assert ray
    for needed in (
        ". ~/levibot.env",
        "PYTHONPATH=$HOME/levibot",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deployments.errors:proxy_middlewares",
    ):
        assert needed in before_ray


def test_every_node_runs_the_ray_that_is_pinned(config: Config) -> None:
    (pinned,) = (
        line.removeprefix("ray==")
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line.startswith("ray==")
    )
    docker = config["docker"]
    images = [docker["image"], config["available_node_types"]["gpu_worker"]["docker"]["worker_image"]]
    assert all(image.startswith(f"rayproject/ray:{pinned}-") for image in images)


def test_git_ignores_the_passwords() -> None:
    assert "cluster.env" in (ROOT / ".gitignore").read_text().splitlines()
