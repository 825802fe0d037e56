"""A view's version changes with every definition, and with nothing else."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import levibot
from levibot.errors import UsageError
from levibot.features import kernels
from levibot.features.feature import Feature
from levibot.features.view import FeatureView
from levibot.features.views import CORE

PACKAGE = Path(levibot.__file__).parent
BODY = """
from levibot.features import compiled, kernels

SCALE = 2.0
WEIGHTS = {"near": (0.75, 0.25)}


@compiled.compiled
def kernel(x):
    return x * 0.5


def helper(x):
    return x + 1.0


def formula(inputs, bars):
    return helper(kernel(inputs.close)) * SCALE * bars * WEIGHTS["near"][0]
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], ModuleType]:
    """Imports a text as a module of its own."""

    def imported(text: str) -> ModuleType:
        path = tmp_path / f"family_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("family", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return imported


def version(module: ModuleType, **changes: object) -> str:
    feature = Feature(
        name="planted",
        family="any",
        unit="any",
        source="a test",
        inputs=("close",),
        window_bars=1,
        formula=module.formula,
        parameters=(("bars", 24),),
    )
    return FeatureView("any", (replace(feature, **changes),)).version


def version_in_a_fresh_process(package_parent: Path, hash_seed: str) -> str:
    return in_a_fresh_process(
        package_parent, "from levibot.features.views import CORE; print(CORE.version)", hash_seed
    )


def in_a_fresh_process(package_parent: Path, program: str, hash_seed: str = "1") -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(package_parent)}
    # -P: the folder in which the tests run holds a levibot of its own.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment,
        cwd=package_parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_the_same_definitions_have_the_same_version(load) -> None:
    assert version(load(BODY)) == version(load(BODY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* bars", "/ bars"),
        ("x + 1.0", "x - 1.0"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("x * 0.5", "x * 0.7"),
        ("(0.75, 0.25)", "(0.75, 0.26)"),
    ],
    ids=["the formula", "what the formula calls", "a constant", "a kernel", "a constant in a table"],
)
def test_a_changed_line_changes_the_version(load, old, new) -> None:
    assert old in BODY
    assert version(load(BODY)) != version(load(BODY.replace(old, new)))


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": (("bars", 25),)},
        {"name": "other"},
        {"window_bars": 2},
        {"scaled": True},
        {"reads_others": True},
    ],
    ids=str,
)
def test_a_changed_definition_changes_the_version(load, change) -> None:
    module = load(BODY)
    assert version(module) != version(module, **change)


def test_a_function_named_through_its_module_is_part_of_the_version(load, monkeypatch) -> None:
    text = BODY.replace("helper(kernel(inputs.close))", "kernels.ratios(inputs.close)")
    before = version(load(text))
    monkeypatch.setattr(kernels, "ratios", kernels.window_sums)
    assert version(load(text)) != before


def test_the_order_of_the_features_is_part_of_the_version() -> None:
    assert FeatureView("core", CORE.features[::-1]).version != CORE.version


def test_the_version_is_the_same_in_another_process_and_another_folder(tmp_path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "levibot", ignore=shutil.ignore_patterns("__pycache__"))
    assert version_in_a_fresh_process(PACKAGE.parent, "1") == CORE.version
    assert version_in_a_fresh_process(tmp_path, "2") == CORE.version


WITH_EACH_CHANGED = """
from dataclasses import replace
from pathlib import Path
from levibot.features import view
from levibot.features.views import CORE

for name in ("view.py", "kernels.py", "compiled.py", "rolling.py", "inputs.py", "engine.py"):
    file = Path(view.__file__).with_name(name)
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "\\nCHANGED = True\\n", encoding="utf-8")
    # A view remembers its version; a copy of it does not.
    print(name, replace(CORE).version)
    file.write_text(text, encoding="utf-8")
"""


def test_what_all_features_run_through_is_part_of_the_version(tmp_path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "levibot", ignore=shutil.ignore_patterns("__pycache__"))
    printed = in_a_fresh_process(tmp_path, WITH_EACH_CHANGED)
    versions = dict(line.split() for line in printed.splitlines())
    # The file of the view itself defines no value.
    assert versions.pop("view.py") == CORE.version
    assert len({*versions.values(), CORE.version}) == len(versions) + 1 == 6


def test_the_warm_up_of_a_view_is_its_longest_and_the_fill_limit() -> None:
    assert CORE.warmup_bars == max(feature.warmup_bars for feature in CORE.features) + 24


def test_a_feature_is_found_by_name() -> None:
    assert CORE.names[CORE.index("trend_672")] == "trend_672"
    with pytest.raises(UsageError, match="no feature 'trend_673'"):
        CORE.index("trend_673")


def test_two_features_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two features named 'return_1'"):
        FeatureView("twice", (CORE.features[0], CORE.features[0]))


def test_a_view_without_features_is_refused() -> None:
    with pytest.raises(UsageError, match="no features"):
        FeatureView("empty", ())


def test_a_formula_without_source_has_no_version() -> None:
    hidden = replace(CORE.features[0], formula=partial(CORE.features[0].formula))
    with pytest.raises(UsageError, match="plain function"):
        _ = FeatureView("hidden", (hidden,)).version
