"""The commits of a store: whole or not at all, on the state that their author meant, whoever else commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from adapthub.adapters.errors import Conflict, EntryNotFound, InvalidSettings, RevisionNotFound
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import commits, repos, rewriting
from adapthub.hub.audit import MACHINE
from adapthub.hub.commits import Committed, Proposal
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import head_of, require_commit
from adapthub.hub.storage.tables import CommitRow
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob, Delete, Put, git_oid, read_tree

NER = Reference(None, "acme", "ner")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store with one empty repository."""
    url = request.getfixturevalue("new_database")() if request.param == "postgres" else None
    store = Store.open(tmp_path / "hub", database=url)
    with store.database.writing() as session:
        commits.begin(session, repos.make(session, NER), author=None)
    return store


def stored(store: Store, data: bytes) -> Blob:
    blob = Blob(sha256_bytes(data), len(data), git_oid(data))
    store.blobs.put(blob.sha256, data, origin="test")
    store.register([blob])
    return store.known([blob.sha256])[blob.sha256]


def files(store: Store, revision: str = "main") -> dict[str, int]:
    with store.database.reading() as session:
        commit = require_commit(session, require_repo(session, NER), revision)
        return {path: blob.size for path, blob in read_tree(session, commit.id).items()}


def add(store: Store, path: str, data: bytes, **more: str | None) -> Committed:
    proposal = Proposal([Put(path, stored(store, data))], more.pop("message", None) or path, **more)
    return commits.commit(store, NER, proposal)


def test_commits_follow_one_another(store: Store) -> None:
    add(store, "a.txt", b"1")
    add(store, "folder/b.txt", b"22")
    assert files(store) == {"a.txt": 1, "folder/b.txt": 2}
    commits.commit(store, NER, Proposal([Delete("folder", folder=True)], "less"))
    assert files(store) == {"a.txt": 1}
    with pytest.raises(EntryNotFound, match=r"b\.txt"):
        commits.commit(store, NER, Proposal([Delete("folder/b.txt")], "again less"))


def test_the_same_commit_again_is_the_same(store: Store) -> None:
    first = add(store, "a.txt", b"1", author="ada")
    assert add(store, "a.txt", b"1", author="ada") == Committed(first.oid, None, repeated=True)
    gone = Proposal([Delete("a.txt")], "gone", "ada", first.oid)
    done = commits.commit(store, NER, gone)
    assert commits.commit(store, NER, gone) == Committed(done.oid, None, repeated=True)
    with pytest.raises(Conflict, match=f"is at {done.oid}, no longer at {first.oid}"):
        commits.commit(store, NER, Proposal([Put("b.txt", stored(store, b"b"))], "b", "ada", first.oid))
    assert files(store) == {}


def test_of_many_that_name_one_parent_one_is_first(store: Store) -> None:
    start = add(store, "a.txt", b"1").oid

    def race(number: int) -> str | None:
        try:
            return add(store, f"{number}.txt", b"x%d" % number, parent=start).oid
        except Conflict:
            return None

    with ThreadPoolExecutor(6) as pool:
        won = [oid for oid in pool.map(race, range(6)) if oid]
    assert len(won) == 1
    assert len(files(store)) == 2


def test_those_that_name_no_parent_are_all_there(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda number: add(store, f"{number}.txt", b"x%d" % number).oid, range(8)))
    assert len(set(made)) == 8
    assert len(files(store)) == 8
    with store.database.reading() as session:
        head = head_of(session, require_repo(session, NER))
        assert head is not None
        assert head.oid in made


def test_what_was_not_stored_is_not_committed(store: Store) -> None:
    with pytest.raises(InvalidSettings, match="not uploaded"):
        commits.commit(store, NER, Proposal([Put("a.txt", Blob("0" * 64, 0))], "a"))
    with pytest.raises(RevisionNotFound, match="no branch draft"):
        commits.commit(store, NER, Proposal([Put("a.txt", stored(store, b"a"))], "a"), "draft")
    assert files(store) == {}


@pytest.mark.parametrize("made", [lambda store: add(store, "a.txt", b"1"), lambda store: None])
def test_a_repository_goes_whole(store: Store, made: Callable[[Store], object]) -> None:
    made(store)
    with store.database.writing() as session:
        repos.remove(session, require_repo(session, NER))
    with store.database.writing() as session:
        commits.begin(session, repos.make(session, NER), author=None)
    assert files(store) == {}


def test_a_long_history_is_squashed(store: Store) -> None:
    """Whatever a database takes of parameters in one statement: the keys of what goes are none."""
    with store.database.writing() as session:
        repo = require_repo(session, NER)
        parent = commits.begin(session, repo, author=None)
        for number in range(300):
            parent = commits._add(session, repo, parent, {}, Proposal((), str(number)))
        commits._point(session, repo, "main", parent)
    with store.database.writing() as session:
        driver = session.connection().connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 100)
        rewriting.squash(session, require_repo(session, NER), "main", message="one", actor=MACHINE)
    with store.database.reading() as session:
        assert [row.message for row in session.scalars(select(CommitRow))] == ["one"]
