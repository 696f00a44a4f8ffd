"""A database of an older schema is brought up to date when it is opened, and reads as it did."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine, create_engine, inspect, make_url

from adapthub.adapters.errors import StorageError
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.storage import migrations
from adapthub.hub.storage.database import Database
from adapthub.hub.storage.folder_blobs import FolderBlobs
from adapthub.hub.storage.migrations import schema_2, schema_3
from adapthub.hub.storage.schema import HUB
from adapthub.hub.storage.tables import SCHEMA
from tests.hub.adapters import contents, write_adapter
from tests.hub.schema_1.adapters import write_adapters

OLD = Path(__file__).with_name("schema_1")


@pytest.fixture
def old_hub(tmp_path: Path) -> Path:
    """The folder of a hub as the release with schema 1 left it."""
    root = tmp_path / "hub"
    blobs = FolderBlobs(root / "blobs")
    for artifact in write_adapters(tmp_path / "made").values():
        for name, record in artifact.files.items():
            blobs.put(record.sha256, (artifact.path / name).read_bytes(), origin=name)
    with closing(sqlite3.connect(root / "hub.sqlite3")) as connection:
        connection.executescript((OLD / "hub.sql").read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    return root


@pytest.fixture
def schema_2_hub(old_hub: Path) -> Path:
    """The folder of a hub that the step to schema 2 has just upgraded."""
    engine = create_engine(f"sqlite:///{old_hub}/hub.sqlite3")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        schema_2.upgrade()
        connection.exec_driver_sql("UPDATE hub_schema SET version = 2")
    engine.dispose()
    return old_hub


def as_answered(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


@pytest.mark.parametrize("schema", [1, 2])
def test_it_answers_as_it_did(schema: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    old_hub: Path = request.getfixturevalue("old_hub" if schema == 1 else "schema_2_hub")
    answers = json.loads((OLD / "answers.json").read_text())
    hub = EmbeddedHub(old_hub, cache=tmp_path / "cache")
    for name, shown in answers["show"].items():
        unknown = {"targets": None, "fit": None}  # nobody looked
        assert as_answered(asdict(hub.show(name))) == {**shown, **unknown}, name
    assert as_answered([asdict(entry) for entry in hub.list()]) == answers["list"]
    for conditions, names in answers["search"]:
        assert [entry.name for entry in hub.search(**conditions)] == names, conditions
    made = {artifact.digest: artifact for artifact in write_adapters(tmp_path / "again").values()}
    for version in hub.show("acme/ner").versions:
        pulled = hub.pull(f"acme/ner@v{version.number}")
        assert contents(pulled.path) == contents(made[version.digest].path)


def test_it_goes_on(old_hub: Path, tmp_path: Path) -> None:
    hub = EmbeddedHub(old_hub)
    assert hub.push(write_adapter(tmp_path / "next", seed=9), "acme/ner", alias="prod").number == 4
    assert hub.rollback("acme/ner", "prod").number == 1
    assert hub.show("acme/ner").versions[1].number == 3
    assert EmbeddedHub(old_hub).resolve("acme/ner").number == 4


def test_processes_that_open_it_at_once_migrate_it_once(old_hub: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        hubs = list(pool.map(_count, [old_hub] * 3))
    assert hubs == [3, 3, 3]


def _count(root: Path) -> int:
    return len(EmbeddedHub(root).show("acme/ner").versions)


def test_a_migration_that_fails_leaves_what_was_there(old_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with closing(sqlite3.connect(old_hub / "hub.sqlite3")) as connection:
        before = list(connection.iterdump())
    with monkeypatch.context() as patch:
        patch.setattr(schema_2, "_copy_files", full)
        with pytest.raises(StorageError, match="full"):
            EmbeddedHub(old_hub)
    with closing(sqlite3.connect(old_hub / "hub.sqlite3")) as connection:
        assert list(connection.iterdump()) == before
    assert EmbeddedHub(old_hub).resolve("acme/ner").number == 3


def test_a_migrated_database_is_like_a_new_one(old_hub: Path, tmp_path: Path) -> None:
    EmbeddedHub(old_hub)
    EmbeddedHub(tmp_path / "new")
    old, new = (create_engine(f"sqlite:///{root}/hub.sqlite3") for root in (old_hub, tmp_path / "new"))
    assert_has_all(old)
    tables = inspect(new).get_table_names()
    assert sorted(inspect(old).get_table_names()) == sorted(tables)
    for table in tables:
        if _is_ours(table, "table"):
            assert _shape(old, table) == _shape(new, table), table
    old.dispose()
    new.dispose()


def test_what_was_added_to_schema_2_is_kept(schema_2_hub: Path) -> None:
    """Hubs of the last days of schema 2 have what schema 3 adds."""
    engine = create_engine(f"sqlite:///{schema_2_hub}/hub.sqlite3")
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        schema_3.upgrade()
        connection.exec_driver_sql(
            "INSERT INTO sent (repo_id, blob_id, sent, part) VALUES (1, 1, '2026-01-01', 'x/1')"
        )
        connection.exec_driver_sql(
            "INSERT INTO pending (namespace, name, blob_id, sent) VALUES ('a', 'b', 1, '2026-01-01')"
        )
    EmbeddedHub(schema_2_hub)
    assert_has_all(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT part FROM sent").all() == [("x/1",)]
        assert connection.exec_driver_sql("SELECT name FROM pending").all() == [("b",)]
    engine.dispose()


def test_a_schema_2_that_was_not_finished_is_refused(schema_2_hub: Path) -> None:
    with closing(sqlite3.connect(schema_2_hub / "hub.sqlite3")) as connection:
        connection.execute("DROP TABLE hub_secret")
        connection.commit()
        before = list(connection.iterdump())
    with pytest.raises(StorageError, match="in development"):
        EmbeddedHub(schema_2_hub)
    with closing(sqlite3.connect(schema_2_hub / "hub.sqlite3")) as connection:
        assert list(connection.iterdump()) == before


@pytest.mark.slow
@pytest.mark.parametrize("lacks", ["both", "a table", "nothing"])
def test_postgresql_is_upgraded_from_schema_2(new_database: Callable[[], str], lacks: str) -> None:
    url = new_database()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    Database(url, HUB)
    with engine.begin() as connection:
        if lacks != "nothing":
            connection.exec_driver_sql("DROP TABLE pending")
        if lacks == "both":
            connection.exec_driver_sql("ALTER TABLE sent DROP COLUMN part")
        connection.exec_driver_sql("UPDATE hub_schema SET version = 2")
    Database(url, HUB)
    assert_has_all(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version FROM hub_schema").scalar() == SCHEMA
    engine.dispose()


def assert_has_all(engine: Engine) -> None:
    """That nothing of the tables is missing."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _is_ours})
        missing = produce_migrations(context, HUB.metadata).upgrade_ops
        assert missing is not None
        assert missing.is_empty(), f"schema_{SCHEMA} lacks:\n{render_python_code(missing)}"


def test_there_is_a_step_for_every_schema() -> None:
    steps = sorted(path.stem for path in Path(migrations.__file__).parent.glob("schema_*.py"))
    assert steps == [f"schema_{number}" for number in range(2, SCHEMA + 1)]


def _shape(engine: Any, table: str) -> Any:
    found = inspect(engine)
    return (
        [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
        found.get_pk_constraint(table)["constrained_columns"],
        sorted(tuple(index["column_names"]) for index in found.get_indexes(table)),
        sorted(tuple(unique["column_names"]) for unique in found.get_unique_constraints(table)),
        sorted(tuple(key["constrained_columns"]) for key in found.get_foreign_keys(table)),
    )


def _is_ours(name: str | None, kind: str, *_: object) -> bool:
    return kind != "table" or not str(name).startswith("repo_text")
