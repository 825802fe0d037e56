"""What the pages say is what the repository holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from typer.main import get_command

from levibot.cli import app
from levibot.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MACHINE_PATHS = ("/" + "work/", "/" + "tmp/w/")


def tracked_files() -> list[Path]:
    """The files that git knows; skips the test outside a clone."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git here")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def folders_with_content() -> set[str]:
    """Top-level folders that hold more than the mark of a package."""
    return {
        path.relative_to(ROOT).parts[0]
        for path in tracked_files()
        if path.parent != ROOT and path.name != "__init__.py" and path.relative_to(ROOT).parts[0][0] != "."
    }


def folders_of_tree(page: str) -> list[str]:
    """Folders that begin a line of the page's tree, with its description behind."""
    return re.findall(r"^([a-z]+)/ {2,}\S", page, re.MULTILINE)


def commands_of(page: str, pattern: str) -> set[str]:
    """What the pattern's group matches in code of the page: blocks and spans."""
    code = re.findall(r"```.*?\n(.*?)```|`([^`\n]+)`", page, re.DOTALL)
    return {found for block, span in code for found in re.findall(pattern, block or span)}


def settings_of(page: str) -> set[str]:
    return set(re.findall(r"LEVIBOT_[A-Z][A-Z_]*[A-Z]", page))


def broken_links(page: Path, text: str) -> list[str]:
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    local = [t.partition("#")[0] for t in targets if "://" not in t and not t.startswith(("#", "mailto:"))]
    return [target for target in local if not (page.parent / target).exists()]


def unpinned(requirements: list[str], lock: str) -> list[str]:
    """The requirements that the lock file does not pin at a version that satisfies them."""
    pins = dict(line.split("==", 1) for line in lock.splitlines() if "==" in line)
    versions = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    wrong = []
    for text in requirements:
        wanted = Requirement(text)
        version = versions.get(canonicalize_name(wanted.name))
        if version is None or not wanted.specifier.contains(version):
            wrong.append(text)
    return wrong


def test_the_readme_lists_every_folder_once() -> None:
    listed = folders_of_tree(README)
    assert len(listed) == len(set(listed))
    assert set(listed) == folders_with_content()


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = commands_of(README, r"\bmake ([a-z-]+)")
    assert {"run", "test"} <= named
    assert named <= targets


def test_every_command_of_the_readme_exists() -> None:
    existing = set(getattr(get_command(app), "commands"))  # noqa: B009 - typer's own group is not typed
    named = set()
    for found in commands_of(README, r"python -m levibot ([a-z|-]+)"):
        named |= set(found.split("|"))
    assert named == existing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_would_be_found() -> None:
    text = "[there](README.md#tree) and [gone](docs/gone.md)"
    assert broken_links(ROOT / "README.md", text) == ["docs/gone.md"]


def test_the_readme_names_every_setting() -> None:
    prefix = Settings.model_config["env_prefix"]
    assert settings_of(README) == {f"{prefix}{name.upper()}" for name in Settings.model_fields}


def test_the_lock_file_pins_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert unpinned(requirements, (ROOT / "requirements.lock").read_text()) == []


def test_a_pin_that_does_not_satisfy_would_be_found() -> None:
    assert unpinned(["numpy>=2.2", "Ray[serve]==2.60.0", "scipy"], "numpy==2.1.9\nray==2.60.0\n") == [
        "numpy>=2.2",
        "scipy",
    ]


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", page.name)
        assert page.read_text().startswith(f"# {int(page.name[:4])}. ")


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in tracked_files()
        if any(machine in path.read_text(errors="ignore") for machine in MACHINE_PATHS)
    ]
    assert found == []
