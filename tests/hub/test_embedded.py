"""What is particular to the embedded hub: its folder, its database, processes side by side, how it is
opened."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import IntegrityError, StorageError
from adapthub.hub import open_hub
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.storage.tables import SCHEMA
from tests.hub.adapters import contents, manifest, write_adapter
from tests.hub.processes import push_all


@pytest.fixture
def hub(tmp_path: Path) -> EmbeddedHub:
    return EmbeddedHub(tmp_path / "hub", cache=tmp_path / "cache")


def execute(hub: EmbeddedHub, statement: str) -> None:
    with closing(sqlite3.connect(hub.root / "hub.sqlite3")) as connection, connection:
        connection.execute(statement)


def blob(hub: EmbeddedHub, artifact: Artifact, name: str) -> Path:
    sha256 = artifact.files[name].sha256
    return hub.root / "blobs" / sha256[:2] / sha256


# opening


def test_the_hub_is_in_the_home_and_so_is_the_cache(own_home: Path, tmp_path: Path) -> None:
    hub = open_hub()
    hub.push(write_adapter(tmp_path / "made"), "acme/ner")
    assert (own_home / "hub" / "hub.sqlite3").exists()
    assert hub.pull("acme/ner").path.parent == own_home / "cache"


def test_a_hub_in_a_folder_of_choice(own_home: Path, tmp_path: Path) -> None:
    open_hub(tmp_path / "mine").push(write_adapter(tmp_path / "made"), "acme/ner")
    assert [entry.name for entry in EmbeddedHub(tmp_path / "mine").list()] == ["acme/ner"]
    assert open_hub().list() == []


def test_importing_the_hub_loads_no_database_and_no_torch() -> None:
    script = (
        "import sys, adapthub.hub; heavy = {'sqlalchemy', 'obstore', 'torch', 'pydantic', 'filelock'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "import adapthub.hub.embedded; assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.parametrize("found", [0, SCHEMA + 1])
def test_another_schema_is_named_and_left_alone(hub: EmbeddedHub, found: int) -> None:
    execute(hub, f"UPDATE hub_schema SET version = {found}")
    before = (hub.root / "hub.sqlite3").read_bytes()
    with pytest.raises(StorageError, match=f"has hub schema {found}, .* reads schema {SCHEMA}"):
        EmbeddedHub(hub.root)
    assert (hub.root / "hub.sqlite3").read_bytes() == before


def test_a_database_of_something_else(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "hub.sqlite3")) as connection:
        connection.execute("CREATE TABLE recipes (name)")
    with pytest.raises(StorageError, match="not AdaptHub's hub database"):
        EmbeddedHub(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "hub.sqlite3").write_bytes(b"not a database " * 100)
    with pytest.raises(StorageError, match=r"hub\.sqlite3 failed: file is not a database"):
        EmbeddedHub(tmp_path)


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    with pytest.raises(StorageError, match="hub"):
        EmbeddedHub(tmp_path / "hub")


def test_a_damaged_database_is_a_storage_error(hub: EmbeddedHub, tmp_path: Path) -> None:
    hub.push(write_adapter(tmp_path / "made"), "acme/ner")
    database = hub.root / "hub.sqlite3"
    data = bytearray(database.read_bytes())
    data[200:] = bytes(len(data) - 200)
    database.write_bytes(data)
    with pytest.raises(StorageError, match="malformed"):
        hub.list()


# bytes


def test_equal_files_are_stored_once(hub: EmbeddedHub, tmp_path: Path) -> None:
    for seed in range(3):
        hub.push(write_adapter(tmp_path / str(seed), seed=seed), "acme/ner")
    blobs = [path for path in (hub.root / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 4  # three weights, one configuration


def test_a_damaged_blob_is_named_and_a_push_repairs_it(hub: EmbeddedHub, tmp_path: Path) -> None:
    artifact = write_adapter(tmp_path / "made")
    hub.push(artifact, "acme/ner")
    damaged = blob(hub, artifact, "adapter_model.safetensors")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"?")
    with pytest.raises(
        IntegrityError, match=r"adapter_model\.safetensors of acme/ner@\w+ is damaged in the hub"
    ):
        hub.pull("acme/ner")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    damaged.unlink()
    with pytest.raises(
        IntegrityError, match=r"adapter_model\.safetensors of acme/ner@\w+ is missing from the hub"
    ):
        hub.pull("acme/ner")
    damaged.write_bytes(b"")
    assert hub.push(artifact, "acme/ner").repeated
    assert damaged.read_bytes() == whole
    assert contents(hub.pull("acme/ner").path) == contents(artifact.path)


def test_a_damaged_manifest_is_not_shown(hub: EmbeddedHub, tmp_path: Path) -> None:
    artifact = write_adapter(tmp_path / "made", manifest=manifest())
    hub.push(artifact, "acme/ner")
    blob(hub, artifact, "adapthub.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"adapthub\.json of acme/ner@v1"):
        hub.show("acme/ner")


def test_a_pull_by_digest_needs_no_hub_once_it_is_cached(hub: EmbeddedHub, tmp_path: Path) -> None:
    artifact = write_adapter(tmp_path / "made", manifest=manifest())
    hub.push(artifact, "acme/ner")
    pulled = hub.pull("acme/ner")
    (hub.root / "hub.sqlite3").unlink()
    again = hub.pull(f"acme/ner@{artifact.digest}")
    assert (again.digest, again.path) == (artifact.digest, pulled.path)
    with pytest.raises(StorageError):
        hub.pull("acme/ner")
    (pulled.path / "adapter_model.safetensors").write_bytes(b"tampered")
    with pytest.raises(IntegrityError, match=r"damaged.*cannot be fetched again"):
        hub.pull(f"acme/ner@{artifact.digest}")


def test_what_a_killed_process_left_is_removed_after_a_day(hub: EmbeddedHub, tmp_path: Path) -> None:
    incoming = hub.root / "blobs" / "incoming"
    old, fresh = incoming / "0ld", incoming / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    hub.push(write_adapter(tmp_path / "made"), "acme/ner")
    assert list(incoming.iterdir()) == [fresh]


# side by side


def test_processes_that_push_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    folders = [tmp_path / "made" / str(seed) for seed in range(12)]
    artifacts = [write_adapter(folder, seed=seed) for seed, folder in enumerate(folders)]
    root = tmp_path / "hub"  # made by whichever comes first
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(push_all, [root] * 3, [folders[0:4], folders[4:8], folders[8:12]]))
    numbers = dict(pair for result in results for pair in result)
    assert sorted(numbers.values()) == list(range(1, 13))
    hub = EmbeddedHub(root)
    details = hub.show("acme/ner")
    assert {version.digest: version.number for version in details.versions} == numbers
    assert numbers.keys() == {artifact.digest for artifact in artifacts}
    (prod,) = details.aliases
    targets = [move.target for move in prod.history]
    assert [move.source for move in prod.history] == [None, *targets[:-1]]
    assert sorted(targets) == list(range(1, 13))


def test_threads_share_one_hub(hub: EmbeddedHub, tmp_path: Path) -> None:
    artifacts = [write_adapter(tmp_path / str(seed), seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(lambda artifact: hub.push(artifact, "acme/ner"), artifacts))
        assert sorted(version.number for version in versions) == [1, 2, 3, 4, 5, 6]
        pulled = list(pool.map(lambda _: hub.pull("acme/ner@v1"), range(6)))
    (first,) = (version for version in versions if version.number == 1)
    assert [artifact.digest for artifact in pulled] == [first.digest] * 6


def test_a_reader_does_not_wait_for_a_writer(hub: EmbeddedHub, tmp_path: Path) -> None:
    hub.push(write_adapter(tmp_path / "made"), "acme/ner")
    with closing(sqlite3.connect(hub.root / "hub.sqlite3", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM hub_schema")
        assert hub.resolve("acme/ner").number == 1
        writer.execute("ROLLBACK")


def test_a_writer_that_never_ends_is_a_storage_error(
    hub: EmbeddedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.hub.storage.database.BUSY_SECONDS", 0.05)
    impatient = EmbeddedHub(hub.root)
    with closing(sqlite3.connect(hub.root / "hub.sqlite3", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            impatient.push(write_adapter(tmp_path / "made"), "acme/ner")
    assert impatient.push(Artifact.read(tmp_path / "made"), "acme/ner").number == 1
