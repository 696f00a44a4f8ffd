"""A hub's upkeep: garbage goes and nothing else does, what is damaged is found, a backup is the hub again."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from adapthub.adapters.errors import Conflict, IntegrityError, InvalidData, StorageError
from adapthub.adapters.files import sha256_bytes
from adapthub.cli.main import adapt
from adapthub.hub import accounts, audit, backups, bases, epoch, gates, quotas, repos, webhooks
from adapthub.hub.backups import backup, restore
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.storage.governance_tables import DeliveryRow, WebhookRow
from adapthub.hub.storage.text import text_index
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob
from tests.hub.adapters import contents, known_base, manifest, write_adapter

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


def restored_from(store: Store, folder: Path) -> Store:
    """The hub that a backup of `store` gives, in `folder`."""
    backup(store, folder / "saved")
    new = Store.open(folder / "restored")
    restore(new, folder / "saved")
    return new


def test_a_card_that_looks_like_a_column_of_time(tmp_path: Path) -> None:
    hub = EmbeddedHub(tmp_path / "hub", cache=tmp_path / "cache")
    for name, front in (("time", "time: noon"), ("bytes", "bytes: '?'"), ("date", "time: 2026-01-02")):
        hub.push(write_adapter(tmp_path / name, card=f"---\n{front}\n---\n"), f"acme/{name}")
    store = Store.open(tmp_path / "hub")
    assert tables_of(restored_from(store, tmp_path)) == tables_of(store)


def tables_of(store: Store) -> dict[str, list[Any]]:
    """Every row that a backup has, as it is kept."""
    with store.database.reading() as session:
        rows = {table.name: session.execute(select(table)).all() for table in backups._tables()}
        index = text_index(session)
        rows["text"] = session.execute(select(index.key, index.text)).all()
    return {name: sorted(map(repr, found)) for name, found in rows.items()}


def test_a_backup_of_a_backup_is_the_first_one(root: Path, tmp_path: Path) -> None:
    store = Store.open(root)
    once = restored_from(store, tmp_path / "1")
    twice = restored_from(once, tmp_path / "2")
    assert tables_of(twice) == tables_of(once) == tables_of(store)


def test_a_copy_of_a_hub_tells_nobody_what_happened_in_the_hub(root: Path, tmp_path: Path) -> None:
    store = Store.open(root)
    with store.database.writing() as session:
        webhook, _ = webhooks.add(session, "acme", "http://127.0.0.1:9/hook")
        webhooks.ping(session, session.get_one(WebhookRow, webhook.id))
    copy = restored_from(store, tmp_path)
    with store.database.reading() as session, copy.database.reading() as copied:
        assert len(session.scalars(select(DeliveryRow)).all()) == 1
        assert copied.scalars(select(DeliveryRow)).all() == []
        assert [row.id for row in copied.scalars(select(WebhookRow))] == [webhook.id]


def test_what_has_secrets_is_for_its_owner_alone(root: Path, tmp_path: Path) -> None:
    store = Store.open(root)
    with store.database.writing() as session:  # the files beside the database are there while it is used
        accounts.create_token(session, "ada", "write")
        files = list(root.glob("hub.sqlite3*"))
        assert len(files) == 3
        files += [tmp_path / "saved" / "tables.jsonl", tmp_path / "saved.tar"]
        for target in ("saved", "saved.tar"):
            backup(store, tmp_path / target)
        assert {file.name: oct(file.stat().st_mode & 0o777) for file in files} == {
            file.name: "0o600" for file in files
        }


def test_an_older_database_becomes_private_when_it_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "hub.sqlite3"
    path.touch(0o644)
    Store.open(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["a gate", "a quota", "a base", "the audit log"])
def test_a_hub_that_has_anything_is_not_empty(root: Path, tmp_path: Path, what: str) -> None:
    backup(Store.open(root), tmp_path / "saved")
    store = Store.open(tmp_path / "other")
    with store.database.writing() as session:
        match what:
            case "a gate":
                gates.set_gate(session, gates.Gate("acme", "ner", "prod", reviewers=1))
            case "a quota":
                quotas.set_quota(session, "acme", 10)
            case "a base":
                bases.add_base(session, known_base())
            case _:
                audit.record(session, audit.MACHINE, "test")
    with pytest.raises(Conflict, match="not empty"):
        restore(store, tmp_path / "saved")


def test_a_hub_is_no_folder_of_backups(root: Path, tmp_path: Path) -> None:
    store = Store.open(root)
    before = sorted(path.name for path in root.iterdir())
    with pytest.raises(Conflict, match="something else"):
        backup(store, root)
    assert sorted(path.name for path in root.iterdir()) == before
    shutil.copytree(root / "blobs", tmp_path / "elsewhere" / "blobs")  # of a hub whose database is elsewhere
    with pytest.raises(Conflict, match="something else"):
        backup(store, tmp_path / "elsewhere")


def test_a_backup_that_failed_can_be_done_again(root: Path, tmp_path: Path) -> None:
    store = Store.open(root)
    lost = blob_files(root)[0]
    data = lost.read_bytes()
    lost.unlink()
    with pytest.raises(IntegrityError, match="lost"):
        backup(store, tmp_path / "saved")
    lost.write_bytes(data)
    assert tables_of(restored_from(store, tmp_path)) == tables_of(store)


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
