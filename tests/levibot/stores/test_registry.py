"""Model versions on disk."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levibot.errors import RegistryError
from levibot.stores.registry import Registry

METADATA = {"seed": 7, "view_version": "v-abc", "sharpe": 0.1 + 0.2, "symbols": ["BTCUSDT"], "note": "µ"}
FILES = {"model.txt": b"tree\nend\n", "calibration.json": b"[0.5]", "net.onnx": bytes(range(256))}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def test_a_version_comes_back_as_published(registry: Registry) -> None:
    version = registry.publish(METADATA, FILES)
    found = registry.load(version)
    assert (found.version, found.metadata, found.files) == ("v0001", METADATA, FILES)


def test_versions_are_numbered_in_order(registry: Registry) -> None:
    assert [registry.publish({"n": n}, FILES) for n in range(3)] == ["v0001", "v0002", "v0003"]
    assert [(v.version, v.metadata, v.problem) for v in registry.versions()] == [
        ("v0001", {"n": 0}, ""),
        ("v0002", {"n": 1}, ""),
        ("v0003", {"n": 2}, ""),
    ]


def test_versions_after_9999_are_still_in_order(registry: Registry) -> None:
    registry.publish({}, FILES)
    (registry.root / "v0001").rename(registry.root / "v9999")
    assert registry.publish({}, FILES) == "v10000"
    assert registry.publish({}, FILES) == "v10001"


def test_an_empty_registry_has_nothing(registry: Registry) -> None:
    assert (registry.versions(), registry.active(), registry.history()) == ([], None, [])


def test_publishing_activates_nothing(registry: Registry) -> None:
    registry.publish(METADATA, FILES)
    assert registry.active() is None


def test_an_activation_is_seen_and_remembered(registry: Registry) -> None:
    first, second = registry.publish({}, FILES), registry.publish({}, FILES)
    registry.activate(first, "first model")
    registry.activate(second, "passed promotion")
    assert registry.active() == second
    assert [(e["version"], e["replaced"], e["reason"]) for e in registry.history()] == [
        (first, None, "first model"),
        (second, first, "passed promotion"),
    ]


def test_a_broken_version_is_not_activated(registry: Registry) -> None:
    first, second = registry.publish({}, FILES), registry.publish({}, FILES)
    registry.activate(first, "first model")
    (registry.root / second / "model.txt").write_bytes(b"tree\nEnd\n")
    with pytest.raises(RegistryError, match=r"model\.txt of version v0002 is not what was published"):
        registry.activate(second, "should fail")
    assert registry.active() == first
    assert len(registry.history()) == 1


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    root = tmp_path / "flipped"
    shutil.rmtree(root, ignore_errors=True)
    registry = Registry(root)
    version = registry.publish(METADATA, FILES)
    path = data.draw(st.sampled_from(sorted((root / version).iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(RegistryError, match="v0001"):
        registry.load(version)


@pytest.mark.parametrize(
    ("old", "new"), [('"seed": 7', '"seed": 8'), ('"BTCUSDT"', '"ETHUSDT"'), ('"v-abc"', '"v-abd"')]
)
def test_edited_metadata_are_refused(registry: Registry, old: str, new: str) -> None:
    version = registry.publish(METADATA, FILES)
    path = registry.root / version / "model.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(RegistryError, match=r"model\.json of version v0001 is broken"):
        registry.load(version)


@pytest.mark.parametrize("name", [*FILES, "model.json"])
def test_a_missing_file_is_refused(registry: Registry, name: str) -> None:
    version = registry.publish(METADATA, FILES)
    (registry.root / version / name).unlink()
    with pytest.raises(RegistryError, match=name if name in FILES else "no version v0001"):
        registry.load(version)


@pytest.mark.parametrize("version", ["v0001", "v9999"])
def test_an_unknown_version_is_refused(registry: Registry, version: str) -> None:
    with pytest.raises(RegistryError, match=f"There is no version {version}"):
        registry.load(version)


@pytest.mark.parametrize(
    "version",
    ["", ".", "..", "../v0001", "v0001/..", "/etc", "v1", "v0001\n", "V0001", ".publish-x", "v٠٠٠١"],
)
def test_what_is_no_version_name_is_refused(registry: Registry, version: str) -> None:
    registry.publish(METADATA, FILES)
    with pytest.raises(RegistryError, match="no version name"):
        registry.load(version)
    with pytest.raises(RegistryError, match="no version name"):
        registry.activate(version, "a trick")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/x", ".hidden", "a\x00b", "model.json", "a b", "x\n"]
)
def test_what_is_no_file_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="no file name of a model"):
        registry.publish({}, {name: b""})
    assert registry.versions() == []


@pytest.mark.parametrize("name", ["model.pkl", "model.PKL", "model.pickle", "scaler.joblib"])
def test_a_pickle_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="loading it would run code"):
        registry.publish({}, {name: b""})


def test_a_file_that_the_manifest_does_not_name_is_not_loaded(registry: Registry) -> None:
    version = registry.publish(METADATA, FILES)
    (registry.root / version / "extra.txt").write_bytes(b"x")
    assert set(registry.load(version).files) == set(FILES)


def test_a_manifest_that_points_outside_is_refused(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"tree\nend\n")
    version = registry.publish({}, FILES)
    path = registry.root / version / "model.json"
    path.write_text(path.read_text().replace('"model.txt"', '"../../secret"'))
    with pytest.raises(RegistryError):
        registry.load(version)


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}, {"x": b"bytes"}])
def test_metadata_that_is_not_json_is_refused(registry: Registry, metadata: dict[str, object]) -> None:
    with pytest.raises(RegistryError, match="cannot be written as JSON"):
        registry.publish(metadata, FILES)
    assert registry.versions() == []


def test_no_files_are_no_model(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="without files"):
        registry.publish({}, {})


class StopsHalfway(Mapping[str, bytes]):
    """Files of which the second cannot be had a second time, as when a process dies between two writes."""

    def __init__(self) -> None:
        self._asked = 0

    def __getitem__(self, name: str) -> bytes:
        self._asked += 1
        if self._asked == 4:
            raise KeyboardInterrupt
        return FILES[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("model.txt", "net.onnx"))

    def __len__(self) -> int:
        return 2


def test_a_publish_that_stops_halfway_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(KeyboardInterrupt):
        registry.publish({}, StopsHalfway())
    assert list(registry.root.iterdir()) == []
    assert registry.publish({}, FILES) == "v0001"


def test_the_leftover_of_a_crash_is_not_a_version(registry: Registry) -> None:
    registry.publish({}, FILES)
    leftover = registry.root / ".publish-crashed"
    shutil.copytree(registry.root / "v0001", leftover)
    (leftover / "model.json").unlink()
    assert [v.version for v in registry.versions()] == ["v0001"]
    assert registry.publish({}, FILES) == "v0002"


def test_a_broken_manifest_is_listed_with_its_problem(registry: Registry) -> None:
    registry.publish({}, FILES)
    registry.publish({"n": 2}, FILES)
    (registry.root / "v0001" / "model.json").write_text("{")
    broken, whole = registry.versions()
    assert (broken.metadata, whole.metadata) == ({}, {"n": 2})
    assert "not JSON" in broken.problem


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "../x"}', '{"version": 3}'])
def test_a_broken_pointer_is_an_error(registry: Registry, text: str) -> None:
    registry.activate(registry.publish({}, FILES), "first model")
    (registry.root / "active.json").write_text(text)
    with pytest.raises(RegistryError):
        registry.active()
    (registry.root / "active.json").unlink()
    registry.activate("v0001", "again")
    assert registry.active() == "v0001"


def test_concurrent_publishers_get_versions_of_their_own(registry: Registry) -> None:
    published: dict[int, str] = {}
    start = threading.Barrier(8)

    def publish(n: int) -> None:
        start.wait()
        published[n] = registry.publish({"n": n}, FILES | {"n.txt": str(n).encode()})

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(published.values()) == [f"v{n:04d}" for n in range(1, 9)]
    for n, version in published.items():
        assert registry.load(version).files["n.txt"] == str(n).encode()


def test_the_pointer_is_whole_at_every_moment(registry: Registry) -> None:
    versions = [registry.publish({}, FILES) for _ in range(2)]
    registry.activate(versions[0], "start")
    done = threading.Event()

    def flip() -> None:
        for n in range(30):
            registry.activate(versions[n % 2], "flip")
        done.set()

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(registry.active())
    thread.join()
    assert seen <= set(versions)
    assert len(registry.history()) == 31


def test_the_manifest_is_plain_json(registry: Registry) -> None:
    version = registry.publish(METADATA, FILES)
    manifest = json.loads((registry.root / version / "model.json").read_text())
    assert manifest["metadata"] == METADATA
    assert manifest["files"]["model.txt"]["size_bytes"] == 9
