"""Kernels: compiled late, kept on disk, and told apart by their text."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import levibot
from levibot.features import kernels
from levibot.features.compiled import compiled

PACKAGE_PARENT = Path(levibot.__file__).parents[1]


@compiled
def doubled(x: float) -> float:
    """Twice as much."""
    return 2.0 * x


@compiled
def quadrupled(x: float) -> float:
    """Calls another kernel."""
    return doubled(doubled(x))


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_a_process_that_computes_nothing_does_not_load_the_compiler() -> None:
    program = (
        "import sys; from levibot.features.views import CORE; CORE.version; print('numba' in sys.modules)"
    )
    assert run(program) == "False"


def test_a_kernel_may_call_a_kernel() -> None:
    assert quadrupled(3.0) == 12.0
    assert quadrupled.__doc__ == "Calls another kernel."


def test_a_kernel_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(kernels.ratios)) is kernels.ratios


def test_a_division_by_zero_is_no_error() -> None:
    @compiled
    def inverse(x: float) -> float:
        return 1.0 / x

    assert inverse(0.0) == np.inf


SUM = """
import sys; sys.path.insert(0, {folder!r})
import family
print(family.total.dispatcher.stats.cache_hits, end=" ")
print(family.total(3.0), sum(family.total.dispatcher.stats.cache_hits.values()))
"""
FAMILY = """
from levibot.features.compiled import compiled

@compiled
def total(x):
    return x + 1.0
"""


def test_machine_code_is_kept_for_the_next_process(tmp_path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    program = SUM.format(folder=str(tmp_path))
    assert run(program).endswith("4.0 0")
    assert run(program).endswith("4.0 1")


@pytest.mark.parametrize("home_may_be_written", [True, False])
def test_a_read_only_install_compiles_all_the_same(tmp_path, home_may_be_written) -> None:
    install, home = tmp_path / "install", tmp_path / "home"
    install.mkdir()
    (install / "family.py").write_text(FAMILY)
    install.chmod(stat.S_IRUSR | stat.S_IXUSR)
    # Root may write where nobody may: a file in the folder's place stops it too.
    (install / "__pycache__").write_text("") if os.geteuid() == 0 else None
    if home_may_be_written:
        home.mkdir()
    else:
        home.write_text("")
    program = SUM.format(folder=str(install))
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(program, **environment).endswith("4.0 0")
    assert run(program, **environment).endswith("4.0 1" if home_may_be_written else "4.0 0")
