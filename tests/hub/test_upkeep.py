"""A hub's upkeep: garbage goes and nothing else does, what is damaged is found, a backup is the hub again."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapthub.adapters.errors import Conflict, InvalidData, StorageError
from adapthub.adapters.files import sha256_bytes
from adapthub.cli.main import adapt
from adapthub.hub import accounts, epoch, repos
from adapthub.hub.backups import backup, restore
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob
from tests.hub.adapters import contents, manifest, write_adapter

NOW = timedelta(0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A hub with two adapters, one of two versions with an alias."""
    hub = EmbeddedHub(tmp_path / "hub", cache=tmp_path / "cache")
    recorded = manifest(metrics={"test": {"f1": 0.8}})
    for seed in (1, 2):
        hub.push(write_adapter(tmp_path / str(seed), seed=seed, manifest=recorded), "acme/ner", alias="prod")
    hub.push(write_adapter(tmp_path / "3", seed=3, card="# Gone"), "acme/gone")
    return tmp_path / "hub"


def remove(store: Store, name: str) -> None:
    with store.database.writing() as session:
        repos.remove(session, require_repo(session, Reference.parse(name)))


def blob_files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "blobs").rglob("*") if path.is_file())


def test_garbage_goes_and_nothing_else(root: Path, tmp_path: Path) -> None:
    store = Store.open(root)
    before = blob_files(root)
    assert collect(store, grace=NOW).blobs == 0
    store.blobs.put(sha256_bytes(b"stray"), b"stray", origin="test")  # bytes that nothing knows of
    remove(store, "acme/gone")
    assert collect(store).blobs == 0  # all of it is young
    expected = collect(store, grace=NOW, dry_run=True)
    assert expected.strays == 1
    assert len(blob_files(root)) == len(before) + 1
    done = collect(store, grace=NOW)
    assert done == expected
    assert len(blob_files(root)) == len(before) + 1 - done.blobs
    assert done.blobs == 3  # its weights, its card, and the stray; the configuration is shared
    assert collect(store, grace=NOW).blobs == 0
    report = check(store)
    assert (report.whole, report.garbage, report.versions) == (True, 0, 2)
    hub = EmbeddedHub(root, cache=tmp_path / "cold")
    assert contents(hub.pull("acme/ner@v1").path) == contents(tmp_path / "1")
    assert hub.push(write_adapter(tmp_path / "again", seed=3, card="# Gone"), "acme/gone").number == 1
    assert check(store).whole


def test_an_upload_that_a_collection_overtook_is_refused(root: Path) -> None:
    """The collection came after it was seen that the bytes are there, and before the database knew."""
    store = Store.open(root)
    blob = Blob(sha256_bytes(b"stray"), 5)
    store.blobs.put(blob.sha256, b"stray", origin="test")
    store.blobs.put(blob.sha256, b"stray", origin="test")  # finds them there
    assert collect(store, grace=NOW).strays == 1
    with pytest.raises(StorageError, match="removed as garbage"):
        store.register([blob])
    store.blobs.put(blob.sha256, b"stray", origin="test")
    store.register([blob])
    assert collect(store).blobs == 0
    assert store.blobs.size(blob.sha256) == 5


def test_what_is_damaged_is_named(root: Path) -> None:
    store = Store.open(root)
    files = {file.path: file.sha256 for file in EmbeddedHub(root).show("acme/gone").files}
    sha256 = files["adapter_model.safetensors"]
    weights = root / "blobs" / sha256[:2] / sha256
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + b"?")
    (problem,) = check(store).problems
    assert weights.name in problem
    assert "acme/gone@" in problem
    assert check(store, quick=True).whole
    weights.write_bytes(data[:-1])
    assert not check(store, quick=True).whole
    weights.unlink()
    assert "is missing" in check(store, quick=True).problems[0]
    weights.write_bytes(data)
    assert check(store).whole


def test_the_command_says_so_by_its_code(root: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(adapt, ["hub", "check", "--data", str(root), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["problems"] == []
    blob_files(root)[0].unlink()
    done = runner.invoke(adapt, ["hub", "check", "--data", str(root), "--json"])
    assert done.exit_code == 1
    assert len(json.loads(done.stdout)["problems"]) >= 1


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_a_backup_is_the_hub_again(root: Path, tmp_path: Path, name: str) -> None:
    store = Store.open(root)
    with store.database.writing() as session:
        token = accounts.create_token(session, "ada", "write")[1]
    before = epoch.current(store.database)
    target = tmp_path / name
    saved = backup(store, target)
    assert saved.repos == 2
    remove(store, "acme/gone")
    restored = Store.open(tmp_path / "restored")
    assert restore(restored, target) == saved
    assert check(restored).whole
    assert epoch.current(restored.database) > before
    with restored.database.reading() as session:
        assert accounts.find_token(session, token).account == "ada"
    hub, was = (EmbeddedHub(path, cache=path / "cache") for path in (tmp_path / "restored", root))
    assert hub.show("acme/ner") == was.show("acme/ner")
    assert contents(hub.pull("acme/gone").path) == contents(tmp_path / "3")
    assert [entry.name for entry in hub.search("gone")] == ["acme/gone"]
    assert hub.push(write_adapter(tmp_path / "next", seed=9), "acme/ner").number == 3
    with pytest.raises(Conflict, match="not empty"):
        restore(restored, target)


def test_a_backup_of_what_is_new(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    backup(Store.open(root), target)
    first = {path: path.stat().st_mtime_ns for path in (target / "blobs").rglob("*") if path.is_file()}
    EmbeddedHub(root).push(write_adapter(tmp_path / "next", seed=9), "acme/ner")
    backup(Store.open(root), target)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    restore(Store.open(tmp_path / "restored"), target)
    assert EmbeddedHub(tmp_path / "restored").resolve("acme/ner").number == 3


def test_what_is_no_backup(root: Path, tmp_path: Path) -> None:
    empty = Store.open(tmp_path / "empty")
    (tmp_path / "text.tar").write_text("no tar")
    for source in (root, tmp_path / "text.tar"):
        with pytest.raises(InvalidData, match="no backup"):
            restore(empty, source)
    backup(Store.open(root), tmp_path / "backup")
    lost = next(path for path in (tmp_path / "backup" / "blobs").rglob("*") if path.is_file())
    shutil.copytree(tmp_path / "backup", tmp_path / "damaged")
    (tmp_path / "damaged" / lost.relative_to(tmp_path / "backup")).write_bytes(b"?")
    lost.unlink()
    for name in ("backup", "damaged"):
        with pytest.raises(ValueError, match=r"lacks|sha256"):
            restore(empty, tmp_path / name)
        assert EmbeddedHub(tmp_path / "empty").list() == []
    with pytest.raises(Conflict, match="something else"):
        backup(Store.open(root), tmp_path / "1")


@pytest.mark.slow
def test_from_sqlite_to_postgresql_and_back(
    root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("new_database")()
    backup(Store.open(root), tmp_path / "one.tar")
    middle = Store.open(tmp_path / "middle", database=url)
    restore(middle, tmp_path / "one.tar")
    hub = EmbeddedHub(tmp_path / "middle", database=url)
    assert hub.push(write_adapter(tmp_path / "next", seed=9), "acme/ner", alias="prod").number == 3
    assert hub.push(write_adapter(tmp_path / "new", seed=10), "acme/new").number == 1
    remove(middle, "acme/gone")
    assert collect(middle, grace=NOW).blobs == 2
    assert check(middle).whole
    backup(middle, tmp_path / "two.tar")
    restore(Store.open(tmp_path / "last"), tmp_path / "two.tar")
    assert EmbeddedHub(tmp_path / "last").show("acme/ner") == hub.show("acme/ner")
