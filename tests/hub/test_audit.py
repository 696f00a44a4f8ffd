"""The audit log: what is done is in it, in a chain that shows every change, however many write at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from adapthub.adapters.errors import AdaptHubError, IntegrityError
from adapthub.hub import accounts, audit, members
from adapthub.hub.audit import Actor
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.quotas import set_quota
from adapthub.hub.store import Store
from tests.hub.adapters import write_adapter


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str | None]:
    """Where a hub's data is, and its database."""
    url = request.getfixturevalue("new_database")() if request.param == "postgres" else None
    return tmp_path / "hub", url


def written(store: Store, count: int) -> None:
    with store.database.writing() as session:
        for number in range(count):
            audit.record(session, Actor("ada", "ah_12345678"), "test", repo="acme/ner", at=number)


def test_what_is_done_is_recorded_with_it(where: tuple[Path, str | None], tmp_path: Path) -> None:
    root, url = where
    hub, store = EmbeddedHub(root, database=url), Store.open(root, database=url)
    hub.push(write_adapter(tmp_path / "1", seed=1), "acme/ner", message="first", alias="prod")
    hub.push(write_adapter(tmp_path / "2", seed=2), "acme/ner", alias="prod")
    hub.rollback("acme/ner", "prod")
    with store.database.reading() as session:
        found = audit.entries(session, repo="acme/ner")
        assert [entry.action for entry in reversed(found)] == [
            "repo.made",
            *(["commit", "version", "alias.moved"] * 2),
            "alias.moved",
        ]
        assert dict(found[0].detail) == {
            "alias": "prod",
            "from": 2,
            "to": 1,
            "digest": hub.resolve("acme/ner@v1").digest.removeprefix("sha256:"),
            "rollback": True,
        }
        assert audit.entries(session, action="alias.moved", limit=1) == [found[0]]
        assert audit.entries(session, before=2) == [found[-1]]
        assert audit.entries(session, actor="nobody") == []
        assert audit.verify(session).entries == 8


def test_what_failed_is_not(where: tuple[Path, str | None], tmp_path: Path) -> None:
    root, url = where
    hub, store = EmbeddedHub(root, database=url), Store.open(root, database=url)
    hub.push(write_adapter(tmp_path / "1"), "acme/ner")
    with pytest.raises(AdaptHubError):
        hub.promote("acme/ner@v7", "prod")
    with store.database.reading() as session:
        assert [entry.action for entry in audit.entries(session)] == ["version", "commit", "repo.made"]


def test_the_database_refuses_to_change_it(where: tuple[Path, str | None]) -> None:
    store = Store.open(where[0], database=where[1])
    written(store, 2)
    statements = [
        "UPDATE audit SET actor = 'eve'",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit",
    ]
    if where[1] is None:
        same = "number, time, 'eve', token, action, namespace, repo, detail, previous, hash"
        statements.append(f"REPLACE INTO audit SELECT {same} FROM audit WHERE number = 1")
    for statement in statements:
        with (
            pytest.raises((SQLAlchemyError, AdaptHubError), match="append-only"),
            store.database.writing() as session,
        ):
            session.execute(text(statement))
    with store.database.reading() as session:
        assert audit.verify(session).entries == 2


@pytest.mark.slow
def test_postgres_refuses_to_empty_it(tmp_path: Path, new_database: Callable[[], str]) -> None:
    store = Store.open(tmp_path, database=new_database())
    written(store, 2)
    with pytest.raises(SQLAlchemyError, match="append-only"), store.database.writing() as session:
        session.execute(text("TRUNCATE audit"))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit SET actor = 'eve' WHERE number = 3", "at entry 3: it is not what was written"),
        ("UPDATE audit SET token = NULL WHERE number = 3", "at entry 3"),
        ("UPDATE audit SET detail = '{\"at\": 9}' WHERE number = 1", "at entry 1"),
        ("UPDATE audit SET time = '2020-01-01 00:00:00.000000' WHERE number = 4", "at entry 4"),
        ("UPDATE audit SET namespace = 'other' WHERE number = 2", "at entry 2"),
        ("UPDATE audit SET hash = zeroblob(32) WHERE number = 5", "at entry 5"),
        ("DELETE FROM audit WHERE number = 2", "entry 2 is missing"),
        ("DELETE FROM audit WHERE number = 1", "entry 1 is missing"),
        ("UPDATE audit SET number = 99 WHERE number = 3", "entry 3 is missing"),
    ],
)
def test_any_change_is_found_where_it_is(tmp_path: Path, statement: str, words: str) -> None:
    store = Store.open(tmp_path)
    written(store, 5)
    with closing(sqlite3.connect(tmp_path / "hub.sqlite3")) as connection, connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute(statement)
    with store.database.reading() as session, pytest.raises(IntegrityError, match=words):
        audit.verify(session)


def test_a_cut_off_end_is_found_by_the_hash_that_was_kept(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    written(store, 3)
    with store.database.reading() as session:
        head = audit.verify(session).head
    written(store, 2)
    with store.database.reading() as session:
        assert audit.verify(session, expect=head).entries == 5
    with closing(sqlite3.connect(tmp_path / "hub.sqlite3")) as connection, connection:
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute("DELETE FROM audit WHERE number > 2")
    with store.database.reading() as session:
        assert audit.verify(session).entries == 2
        with pytest.raises(IntegrityError, match="cut off"):
            audit.verify(session, expect=head)


def test_many_write_at_once_and_the_chain_is_whole(where: tuple[Path, str | None]) -> None:
    store = Store.open(where[0], database=where[1])
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: written(store, 3), range(16)))
    with store.database.reading() as session:
        assert audit.verify(session).entries == 48


def test_accounts_and_members_are_recorded(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with store.database.writing() as session:
        for name in ("ada", "grace"):
            token, _ = accounts.create_token(session, name, "write")
        members.create_organisation(session, "acme", "ada")
        members.set_member(session, "acme", "grace", "write", actor=Actor("ada", "ah_00000000"))
        accounts.revoke_token(session, token.prefix)
        accounts.revoke_token(session, token.prefix)
        accounts.remove_account(session, "grace")
        set_quota(session, "acme", 500, actor=Actor("ada", "ah_00000000"))
    with store.database.reading() as session:
        found = [(entry.action, entry.actor, entry.namespace) for entry in reversed(audit.entries(session))]
    assert found == [
        ("token.created", None, "ada"),
        ("token.created", None, "grace"),
        ("member", None, "acme"),
        ("member", "ada", "acme"),
        ("token.revoked", None, "grace"),
        ("member", None, "acme"),
        ("account.removed", None, "grace"),
        ("quota.set", "ada", "acme"),
    ]
