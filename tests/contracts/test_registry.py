"""What the model registry promises, in a folder and in an S3 bucket."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import obstore
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from levibot.errors import RegistryConflict, RegistryError, SettingsError, StoreUnavailable, UnknownVersion
from levibot.stores.model_bucket import PART_BYTES, ModelBucket
from levibot.stores.model_files import ModelFolder
from levibot.stores.registry import Registry, content_key
from tests.servers.s3 import S3Server

METADATA = {"seed": 7, "view_version": "v-abc", "sharpe": 0.1 + 0.2, "symbols": ["BTCUSDT"], "note": "µ"}
FILES = {"model.txt": b"tree\nend\n", "calibration.json": b"[0.5]", "net.onnx": bytes(range(256))}


class Place(Protocol):
    """Where a registry lies, with another hand on what it has stored."""

    def another(self) -> Registry:
        """A registry of this place, as another process would open it."""
        ...

    def read(self, version: str, name: str) -> bytes: ...

    def write(self, version: str, name: str, data: bytes) -> None: ...

    def delete(self, version: str, name: str) -> None: ...

    def rename_version(self, old: str, new: str) -> None: ...

    def break_pointer(self, text: str) -> None: ...

    def delete_pointer(self) -> None: ...


class Folder:
    """A registry on a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def another(self) -> Registry:
        return Registry(ModelFolder(self.root))

    def read(self, version: str, name: str) -> bytes:
        return (self.root / version / name).read_bytes()

    def write(self, version: str, name: str, data: bytes) -> None:
        (self.root / version / name).write_bytes(data)

    def delete(self, version: str, name: str) -> None:
        (self.root / version / name).unlink()

    def rename_version(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)

    def break_pointer(self, text: str) -> None:
        (self.root / "active.json").write_text(text)

    def delete_pointer(self) -> None:
        (self.root / "active.json").unlink()


class Bucket:
    """A registry under a prefix of its own in a bucket."""

    def __init__(self, bucket: str) -> None:
        prefix = f"team/{secrets.token_hex(6)}"
        self.url = f"s3://{bucket}/{prefix}"
        self.store = S3Store(bucket, prefix=prefix)

    def another(self) -> Registry:
        return Registry(ModelBucket.open(self.url, timeout_s=5.0))

    def read(self, version: str, name: str) -> bytes:
        return bytes(obstore.get(self.store, self._path(version, name)).bytes())

    def write(self, version: str, name: str, data: bytes) -> None:
        obstore.put(self.store, self._path(version, name), data)

    def delete(self, version: str, name: str) -> None:
        obstore.delete(self.store, self._path(version, name))

    def rename_version(self, old: str, new: str) -> None:
        obstore.rename(self.store, f"{old}/model.json", f"{new}/model.json")

    def break_pointer(self, text: str) -> None:
        obstore.put(self.store, "history.jsonl", text.encode())

    def delete_pointer(self) -> None:
        obstore.delete(self.store, "history.jsonl")

    def _path(self, version: str, name: str) -> str:
        if name == "model.json":
            return f"{version}/model.json"
        manifest = json.loads(self.read(version, "model.json"))
        return f"files/{manifest['files'][name]['sha256']}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The session's S3. Do not freeze it: a test of faults starts its own."""
    server = S3Server()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return Bucket(s3_server.bucket)


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.stores)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Folder(tmp_path / "models")
    found: Bucket = request.getfixturevalue("bucket")
    return found


@pytest.fixture
def registry(place: Place) -> Registry:
    return place.another()


def test_a_version_comes_back_as_published(registry: Registry) -> None:
    version = registry.publish(METADATA, FILES)
    found = registry.load(version)
    assert (found.version, found.metadata, found.files) == ("v1.0.0", METADATA, FILES)


SERVED = {"kind": "signal", "market_id": "m", "view": "core", "view_version": "a", "symbols": ["BTCUSDT"]}
MADE = {**SERVED, "parameters": {"n_folds": 4}, "data_hash": "1", "train_end": "2024-01-01"}


def test_names_say_what_a_version_is_to_the_one_before_it(registry: Registry) -> None:
    after = [
        (MADE, "v1.0.0"),
        ({**MADE, "data_hash": "2", "train_end": "2024-02-01"}, "v1.0.1"),
        ({**MADE, "parameters": {"n_folds": 5}}, "v1.1.0"),
        ({**MADE, "parameters": {"n_folds": 5}, "git_commit": "abc"}, "v1.1.1"),
        ({**MADE, "feature_names": ["ret_1"]}, "v1.2.0"),
        # What nobody has heard of yet is no retraining.
        ({**MADE, "feature_names": ["ret_1"], "something": "new"}, "v1.3.0"),
        ({**MADE, "symbols": ["BTCUSDT", "ETHUSDT"]}, "v2.0.0"),
        ({**MADE, "view_version": "b", "data_hash": "3"}, "v3.0.0"),
    ]
    for metadata, version in after:
        assert registry.publish(metadata, FILES) == version
        assert registry.load(version).metadata == metadata
    assert [info.version for info in registry.versions()] == [version for _, version in after]


def test_versions_are_in_the_order_of_their_numbers(registry: Registry) -> None:
    names = [registry.publish({"data_hash": str(n)}, FILES) for n in range(11)]
    assert names == [f"v1.0.{n}" for n in range(11)]
    assert [(info.version, info.metadata["data_hash"]) for info in registry.versions()] == [
        (name, str(n)) for n, name in enumerate(names)
    ]


def test_after_a_broken_version_nobody_knows_what_fits(registry: Registry, place: Place) -> None:
    registry.publish(MADE, FILES)
    place.write("v1.0.0", "model.json", b"{")
    assert registry.publish(MADE, FILES) == "v2.0.0"


def test_a_version_in_the_place_of_another_is_refused(registry: Registry, place: Place) -> None:
    registry.publish(MADE, FILES)
    place.rename_version("v1.0.0", "v1.0.5")
    with pytest.raises(RegistryError, match=r"version v1\.0\.5 is broken: it is that of version v1\.0\.0"):
        registry.activate("v1.0.5", "a trick")
    assert registry.active() is None


def test_the_card_says_what_the_manifest_says(registry: Registry) -> None:
    metadata = {**MADE, "metrics": {"net_sharpe": 0.75}, "feature_names": ["ret_1", "a|b"], "seed": 7}
    found = registry.load(registry.publish(metadata, FILES))
    assert found.files == FILES
    for line in (
        "# Model card: signal",
        "| Symbols | BTCUSDT |",
        "| Learned until | 2024-01-01 |",
        "| Learned from | not recorded |",
        "| Seed | 7 |",
        "| net_sharpe | 0.75 |",
        "2: ret_1, a\\|b.",
        "No rule decided on it.",
        f"| model.txt | 9 | `{hashlib.sha256(FILES['model.txt']).hexdigest()}` |",
    ):
        assert line in found.card.splitlines()


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


def test_a_broken_version_is_not_activated(registry: Registry, place: Place) -> None:
    first, second = registry.publish({}, {"first.txt": b"tree\n"}), registry.publish({}, FILES)
    registry.activate(first, "first model")
    place.write(second, "model.txt", b"tree\nEnd\n")
    with pytest.raises(RegistryError, match=r"model\.txt of version v1\.0\.1 is not what was published"):
        registry.activate(second, "should fail")
    assert registry.active() == first
    assert len(registry.history()) == 1


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_refused(registry: Registry, place: Place, data: st.DataObject) -> None:
    version = registry.publish(METADATA, FILES, "the one version")
    name = data.draw(st.sampled_from([*FILES, "card.md", "model.json"]))
    whole = place.read(version, name)
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    place.write(version, name, bytes(flipped))
    try:
        with pytest.raises(RegistryError, match=version):
            registry.load(version)
    finally:
        place.write(version, name, whole)


@pytest.mark.parametrize(
    ("old", "new"), [('"seed": 7', '"seed": 8'), ('"BTCUSDT"', '"ETHUSDT"'), ('"v-abc"', '"v-abd"')]
)
def test_edited_metadata_are_refused(registry: Registry, place: Place, old: str, new: str) -> None:
    version = registry.publish(METADATA, FILES)
    text = place.read(version, "model.json").decode()
    assert old in text
    place.write(version, "model.json", text.replace(old, new).encode())
    with pytest.raises(RegistryError, match=r"model\.json of version v1.0.0 is broken"):
        registry.load(version)


@pytest.mark.parametrize("name", [*FILES, "card.md", "model.json"])
def test_a_missing_file_is_refused_and_changes_nothing(registry: Registry, place: Place, name: str) -> None:
    first = registry.publish(METADATA, {"first.txt": b"tree\n"})
    registry.activate(first, "first model")
    version = registry.publish({**METADATA, "seed": 8}, FILES)
    place.delete(version, name)
    said = (
        f"There is no version {version}"
        if name == "model.json"
        else f"{name} of version {version} is missing"
    )
    with pytest.raises(RegistryError, match=said):
        registry.activate(version, "should fail")
    assert (registry.active(), len(registry.history())) == (first, 1)


@pytest.mark.parametrize("version", ["v1.0.0", "v9.9.9"])
def test_an_unknown_version_is_refused(registry: Registry, version: str) -> None:
    with pytest.raises(UnknownVersion, match=f"There is no version {version}"):
        registry.load(version)


@pytest.mark.parametrize(
    "version",
    [
        "",
        ".",
        "..",
        "../v1.0.0",
        "v1.0.0/..",
        "/etc",
        "v1",
        "v1.0.0\n",
        "V1.0.0",
        ".publish-x",
        "v1.\u0660.0",
        "v1.0",
        "v01.0.0",
        "v0.1.0",
        "v0001",
    ],
)
def test_what_is_no_version_name_is_refused(registry: Registry, version: str) -> None:
    registry.publish(METADATA, FILES)
    with pytest.raises(RegistryError, match="no version name"):
        registry.load(version)
    with pytest.raises(RegistryError, match="no version name"):
        registry.activate(version, "a trick")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/x", ".hidden", "a\x00b", "model.json", "card.md", "a b", "x\n"]
)
def test_what_is_no_file_name_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="no file name of a model"):
        registry.publish({}, {name: b""})
    assert registry.versions() == []


@pytest.mark.parametrize("name", ["model.pkl", "model.PKL", "model.pickle", "scaler.joblib"])
def test_a_pickle_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="loading it would run code"):
        registry.publish({}, {name: b""})


def test_a_manifest_that_points_outside_is_refused(registry: Registry, place: Place) -> None:
    version = registry.publish({}, FILES)
    text = place.read(version, "model.json")
    place.write(version, "model.json", text.replace(b'"model.txt"', b'"../../secret"'))
    with pytest.raises(RegistryError):
        registry.load(version)


@pytest.mark.parametrize("entry", [{"sha256": "../../secret", "size_bytes": 9}, {"sha256": 3}, "x", None])
def test_a_manifest_with_another_kind_of_entry_is_refused(
    registry: Registry, place: Place, entry: object
) -> None:
    version = registry.publish({}, FILES)
    manifest = json.loads(place.read(version, "model.json"))
    manifest["files"]["model.txt"] = entry
    place.write(version, "model.json", json.dumps(manifest, indent=2).encode())
    with pytest.raises(RegistryError, match="lacks metadata, or a file's checksum"):
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


def test_a_publish_that_stops_halfway_is_no_version(registry: Registry) -> None:
    with pytest.raises(KeyboardInterrupt):
        registry.publish({}, StopsHalfway())
    assert registry.versions() == []
    assert registry.publish({}, FILES) == "v1.0.0"


def test_a_broken_manifest_is_listed_with_its_problem(registry: Registry, place: Place) -> None:
    registry.publish({}, FILES)
    registry.publish({"n": 2}, FILES)
    place.write("v1.0.0", "model.json", b"{")
    broken, whole = registry.versions()
    assert (broken.metadata, whole.metadata) == ({}, {"n": 2})
    assert "not JSON" in broken.problem


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "../x"}', '{"version": 3}'])
def test_a_broken_pointer_is_an_error(registry: Registry, place: Place, text: str) -> None:
    registry.activate(registry.publish({}, FILES), "first model")
    place.break_pointer(text)
    with pytest.raises(RegistryError):
        registry.active()
    registry.activate("v1.0.0", "repaired")
    assert registry.active() == "v1.0.0"
    place.delete_pointer()
    assert registry.active() is None
    registry.activate("v1.0.0", "again")
    assert registry.active() == "v1.0.0"


def test_a_version_says_when_it_was_published(registry: Registry) -> None:
    before = datetime.now(UTC)
    registry.publish({}, FILES)
    [info] = registry.versions()
    assert info.published_at is not None
    assert before <= info.published_at <= datetime.now(UTC)


def test_the_same_content_under_the_same_key_is_one_version(registry: Registry, place: Place) -> None:
    first = registry.publish(METADATA, FILES, "job 7")
    registry.publish({"n": 2}, FILES)
    assert registry.publish(METADATA, FILES, "job 7") == first
    assert place.another().publish(METADATA, FILES, "job 7") == first
    assert len(registry.versions()) == 2


def test_without_a_key_each_publication_is_a_version(registry: Registry) -> None:
    assert [registry.publish(METADATA, FILES) for _ in range(2)] == ["v1.0.0", "v1.0.1"]


@pytest.mark.parametrize(
    ("metadata", "files"), [({**METADATA, "seed": 8}, FILES), (METADATA, {**FILES, "model.txt": b"tree\n"})]
)
def test_a_key_stands_for_one_content(
    registry: Registry, metadata: dict[str, object], files: dict[str, bytes]
) -> None:
    registry.publish(METADATA, FILES, "job 7")
    with pytest.raises(RegistryError, match=r"'job 7' stands for version v1\.0\.0"):
        registry.publish(metadata, files, "job 7")
    assert len(registry.versions()) == 1


def test_the_key_of_a_content_is_its_own() -> None:
    key = content_key(METADATA, FILES)
    assert content_key(dict(METADATA), dict(FILES)) == key
    assert content_key({**METADATA, "seed": 8}, FILES) != key
    assert content_key(METADATA, {**FILES, "net.onnx": b""}) != key


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_has_its_limits(registry: Registry, key: str) -> None:
    with pytest.raises(RegistryError, match="1 to 200 characters"):
        registry.publish({}, FILES, key)


def test_concurrent_repeats_of_one_publication_are_one_version(place: Place) -> None:
    published: list[str] = []
    start = threading.Barrier(8)

    def publish(n: int) -> None:
        registry = place.another()
        start.wait()
        # Others publish meanwhile, so that the numbers move.
        published.append(registry.publish({}, FILES) if n % 2 else registry.publish(METADATA, FILES, "job 7"))

    in_threads(publish, 8)
    infos = place.another().versions()
    assert len(infos) == len(set(published)) == 5
    assert [info.metadata for info in infos].count(METADATA) == 1


def test_concurrent_publishers_get_versions_of_their_own(place: Place) -> None:
    published: dict[int, str] = {}
    start = threading.Barrier(8)

    def publish(n: int) -> None:
        registry = place.another()
        start.wait()
        published[n] = registry.publish({"n": n}, FILES | {"n.txt": str(n).encode()})

    in_threads(publish, 8)
    assert sorted(published.values()) == ["v1.0.0", *(f"v1.{n}.0" for n in range(1, 8))]
    for n, version in published.items():
        assert place.another().load(version).files["n.txt"] == str(n).encode()


def test_of_concurrent_activations_one_wins_and_the_others_change_nothing(place: Place) -> None:
    versions = [place.another().publish({"n": n}, FILES) for n in range(6)]
    place.another().activate(versions[0], "first")
    seen, _ = place.another().newest_activation()
    refused: list[str] = []
    start = threading.Barrier(6)

    def activate(n: int) -> None:
        registry = place.another()
        start.wait()
        try:
            registry.activate(versions[n], f"by {n}", instead_of=seen)
        except RegistryConflict as exc:
            refused.append(exc.message)

    in_threads(activate, 6)
    registry = place.another()
    _, winner = registry.history()
    assert (registry.active(), winner["replaced"]) == (winner["version"], versions[0])
    assert len(refused) == 5
    assert all(said.endswith(f"was not activated: {winner['version']} came first.") for said in refused)


def test_no_activation_is_lost_and_each_says_what_it_replaced(place: Place) -> None:
    versions = [place.another().publish({"n": n}, FILES) for n in range(4)]

    def activate(n: int) -> None:
        registry = place.another()
        for _ in range(3):
            while True:
                try:
                    registry.activate(versions[n], f"by {n}")
                except RegistryConflict:
                    continue
                break

    in_threads(activate, 4)
    registry = place.another()
    history = registry.history()
    assert sorted(entry["version"] for entry in history) == sorted(versions * 3)
    # Each replaced the one before it, and the last one is live.
    assert [entry["replaced"] for entry in history] == [None, *(entry["version"] for entry in history[:-1])]
    assert registry.active() == history[-1]["version"]


def test_a_decision_stays_in_the_history(registry: Registry) -> None:
    version = registry.publish({}, FILES)
    registry.activate(version, "better", decision={"deflated": 0.97, "kept": False})
    [entry] = registry.history()
    assert entry["decision"] == {"deflated": 0.97, "kept": False}
    with pytest.raises(RegistryError, match="cannot be written as JSON"):
        registry.activate(version, "better", decision={"deflated": float("nan")})
    assert len(registry.history()) == 1


def test_a_key_of_a_writer_that_died_is_published_under_the_name_it_claimed(
    registry: Registry, place: Place
) -> None:
    registry.publish(MADE, FILES)
    assert registry.files.claim("job 7", "v1.0.1", instead_of=None) == "v1.0.1"
    assert registry.published_under("job 7") is None
    registry.publish({**MADE, "view_version": "b"}, FILES)
    assert place.another().publish({**MADE, "data_hash": "2"}, FILES, "job 7") == "v1.0.1"
    assert registry.published_under("job 7") == "v1.0.1"
    # Taken by somebody else meanwhile: the claim moves on.
    registry.files.claim("job 8", "v2.0.1", instead_of=None)
    assert registry.publish({**MADE, "view_version": "b", "data_hash": "9"}, FILES) == "v2.0.1"
    assert registry.publish({**MADE, "view_version": "b", "data_hash": "8"}, FILES, "job 8") == "v2.0.2"
    # One that cannot be read is made anew.
    registry.files.claim("job 9", "../x", instead_of=None)
    assert registry.publish({**MADE, "view_version": "c"}, FILES, "job 9") == "v3.0.0"


def test_the_pointer_is_whole_at_every_moment(registry: Registry, place: Place) -> None:
    versions = [registry.publish({}, FILES) for _ in range(2)]
    registry.activate(versions[0], "start")
    done = threading.Event()

    def flip() -> None:
        other = place.another()
        for n in range(30):
            other.activate(versions[n % 2], "flip")
        done.set()

    thread = threading.Thread(target=flip)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(registry.active())
    thread.join()
    assert seen <= set(versions)
    assert len(registry.history()) == 31


def test_the_manifest_is_plain_json(registry: Registry, place: Place) -> None:
    version = registry.publish(METADATA, FILES)
    manifest = json.loads(place.read(version, "model.json"))
    assert manifest["metadata"] == METADATA
    assert manifest["files"]["model.txt"]["size_bytes"] == 9


def test_an_empty_file_is_a_file(registry: Registry) -> None:
    assert registry.load(registry.publish({}, {"empty.txt": b""})).files == {"empty.txt": b""}


def test_a_file_of_many_parts_comes_back(registry: Registry) -> None:
    large = secrets.token_bytes(2 * PART_BYTES + 17)
    assert registry.load(registry.publish({}, {"net.onnx": large})).files["net.onnx"] == large


class TestFolder:
    """What only a folder has."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Folder:
        return Folder(tmp_path / "models")

    def test_a_publish_that_stops_halfway_leaves_nothing(self, folder: Folder) -> None:
        with pytest.raises(KeyboardInterrupt):
            folder.another().publish({}, StopsHalfway())
        assert list(folder.root.iterdir()) == []

    def test_the_leftover_of_a_crash_is_not_a_version(self, folder: Folder) -> None:
        registry = folder.another()
        registry.publish({}, FILES)
        leftover = folder.root / ".publish-crashed"
        shutil.copytree(folder.root / "v1.0.0", leftover)
        (leftover / "model.json").unlink()
        assert [v.version for v in registry.versions()] == ["v1.0.0"]
        assert registry.publish({}, FILES) == "v1.0.1"

    def test_a_file_that_the_manifest_does_not_name_is_not_loaded(self, folder: Folder) -> None:
        version = folder.another().publish(METADATA, FILES)
        folder.write(version, "extra.txt", b"x")
        assert set(folder.another().load(version).files) == set(FILES)

    def test_a_place_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("a file")
        with pytest.raises(RegistryError, match="No version can be written to"):
            Folder(tmp_path / "models").another().publish({}, FILES)


@pytest.mark.stores
class TestBucket:
    """What only a bucket has."""

    def test_a_bucket_that_does_not_exist_is_an_error(self, bucket: Bucket) -> None:
        registry = Registry(ModelBucket.open("s3://no-such-bucket/x", timeout_s=2.0))
        for call in (registry.active, registry.history, registry.versions, lambda: registry.load("v1.0.0")):
            with pytest.raises(RegistryError, match="There is no bucket for s3://no-such-bucket/x"):
                call()
        with pytest.raises(RegistryError, match="There is no bucket"):
            registry.publish({}, FILES)

    def test_http_without_leave_is_a_clear_error(
        self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        with pytest.raises(RegistryError, match="AWS_ALLOW_HTTP=true"):
            Registry(ModelBucket.open(bucket.url, timeout_s=2.0)).active()

    def test_prefixes_keep_registries_apart(self, bucket: Bucket, s3_server: S3Server) -> None:
        bucket.another().publish({}, FILES)
        assert Bucket(s3_server.bucket).another().versions() == []
        assert Registry(ModelBucket.open(f"s3://{s3_server.bucket}", timeout_s=2.0)).versions() == []

    @pytest.mark.parametrize("url", ["s3://", "s3:///x", "models", "https://models/x"])
    def test_a_url_without_a_bucket_is_refused(self, url: str) -> None:
        with pytest.raises(SettingsError, match="is no place for models"):
            ModelBucket.open(url, timeout_s=2.0)

    def test_a_frozen_bucket_is_unavailable_in_time_and_whole_afterwards(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = S3Server()
        try:
            server.wait()
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
            registry = Registry(ModelBucket.open(f"s3://{server.bucket}/x", timeout_s=0.5))
            registry.activate(registry.publish({}, FILES), "first")
            server.freeze()
            for call in (
                registry.active,
                registry.versions,
                registry.history,
                lambda: registry.publish({"n": 2}, FILES),
                lambda: registry.load("v1.0.0"),
            ):
                started = time.monotonic()
                with pytest.raises(StoreUnavailable, match=f"s3://{server.bucket}/x did not answer"):
                    call()
                # A multiple of the time-out only so that a busy machine cannot fail the test.
                assert time.monotonic() - started < 5.0
            server.thaw()
            assert registry.active() == "v1.0.0"
            assert [info.problem for info in registry.versions()] == [""]
            assert registry.load(registry.publish({"n": 2}, FILES)).files == FILES
        finally:
            server.thaw()
            server.stop()

    def test_an_unchanged_pointer_is_not_sent_again(self, bucket: Bucket) -> None:
        registry = bucket.another()
        registry.activate(registry.publish({}, FILES), "first")
        assert registry.active() == "v1.0.0"
        newest = registry.files.newest_activation
        assert isinstance(registry.files, ModelBucket)
        kept = registry.files._history
        assert newest() is not None
        assert registry.files._history is kept


def in_threads(work: Callable[[int], None], n: int) -> None:
    """`work` in `n` threads at once; what one of them raises is raised here."""
    with ThreadPoolExecutor(n) as pool:
        for _ in pool.map(work, range(n)):
            pass
