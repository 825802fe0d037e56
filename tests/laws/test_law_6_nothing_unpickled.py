"""Law 6: nothing is unpickled. What is loaded is a data format; no file can bring code with it.

The check reads the source of every package for whatever turns bytes or text into running code. Each planted
fault is one plausible slip; the check must find it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("levibot", "actors", "deployments", "tune", "rl", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

# Modules whose whole point is to bring objects back from bytes.
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Functions of modules that are otherwise welcome, by the last two parts of their name.
FUNCTIONS = {
    ("torch", "load"),
    ("jit", "load"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
}
# Whatever they are called on.
METHODS = {"read_pickle", "to_pickle", "unsafe_load", "load_pickle"}


def ways_to_code(source: str) -> list[str]:
    """Every place where bytes or text could become code, one sentence each; empty when the law holds."""
    tree = ast.parse(source)
    return [f"line {line}: {what}" for line, what in (*_imports(tree), *_calls(tree))]


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if MODULES & set(parts) or tuple(parts[-2:]) in FUNCTIONS or set(parts) & METHODS:
                yield node.lineno, f"imports {name}"


def _calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            last = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            is_module = node.attr in MODULES and isinstance(owner, ast.Name | ast.Attribute)
            if (last, node.attr) in FUNCTIONS or node.attr in METHODS or is_module:
                yield node.lineno, f"uses {last}.{node.attr}"
            if last == "builtins" and node.attr in BUILTINS:
                yield node.lineno, f"uses builtins.{node.attr}"
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.lineno, f"uses {node.id}"
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "allow_pickle" and not is_false:
                    yield node.lineno, "allows pickled arrays"
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            if called == "import_module" and isinstance(first, ast.Constant) and first.value in MODULES:
                yield node.lineno, f"imports {first.value}"


def test_every_package_is_looked_at() -> None:
    assert {"levibot", "actors", "deployments", "tune", "rl"} <= {
        path.relative_to(ROOT).parts[0] for path in FILES
    }
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_nothing_is_unpickled(path: Path) -> None:
    assert ways_to_code(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "slip",
    [
        "import pickle",
        "import pickle as p\np.loads(data)",
        "def load(data):\n    from pickle import loads\n    return loads(data)",
        "from ray import cloudpickle",
        "import ray.cloudpickle as store",
        "import ray\nray.cloudpickle.loads(data)",
        "import joblib",
        "from sklearn.externals import joblib",
        "import dill, shelve",
        "import importlib\nimportlib.import_module('pickle')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=True)",
        "import torch as t\nfrom torch import load",
        "import torch\ntorch.jit.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=trusted)",
        "import pandas as pd\npd.read_pickle(path)",
        "from pandas import read_pickle",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import load",
        "parse = eval",
        "eval(text)",
        "exec(text)",
        "import builtins\nbuiltins.exec(text)",
        "exec(compile(text, 'model', 'exec'))",
        "__import__(name)",
    ],
)
def test_the_check_finds_a_planted_fault(slip: str) -> None:
    assert ways_to_code(slip) != []


@pytest.mark.parametrize(
    "fine",
    [
        "import json\njson.loads(text)",
        "import numpy as np\nnp.load(path, allow_pickle=False)\nnp.load(path)",
        "import yaml\nyaml.safe_load(text)",
        "import re\nre.compile(pattern)",
        "model.eval()",
        "registry.load(version)",
        "'a word about pickle'",
    ],
)
def test_the_check_leaves_data_formats_alone(fine: str) -> None:
    assert ways_to_code(fine) == []
