"""Two changes of one hub at once: one is made, the other is made after it or refused, and nothing is left between."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Forbidden
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import audit, knowledge, quotas, repos, uploads
from adapthub.hub.checking import check
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import RepoRow, VersionRow
from adapthub.hub.storage.text import text_index
from adapthub.hub.storage.upkeep_tables import QuotaRow
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob
from tests.hub.adapters import write_adapter
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer, live

T = TypeVar("T")
DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest) -> str | None:
    """Of each kind of database."""
    return request.getfixturevalue("new_database")() if request.param == "postgres" else None


@pytest.fixture
def any_server(url: str | None, tmp_path: Path) -> Iterator[HubServer]:
    """An empty hub over it."""
    with live(tmp_path / "served", database=url) as server:
        yield server


def together(*calls: Callable[[], T]) -> list[T]:
    barrier = threading.Barrier(len(calls))

    def go(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(go, calls))


def committing(api: Api, name: str, path: str, data: bytes) -> Callable[[], int]:
    file = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
    lines = [{"key": "header", "value": {"summary": path}}, {"key": "file", "value": file}]
    body = "\n".join(map(json.dumps, lines)).encode()
    return lambda: api.raw("POST", f"/api/models/{name}/commit/main", content=body).status_code


def moving(api: Api, source: str, target: str) -> Callable[[], int]:
    body = {"fromRepo": source, "toRepo": target}
    return lambda: api.raw("POST", "/api/repos/move", json=body).status_code


def deleting(api: Api, name: str) -> Callable[[], int]:
    return lambda: api.raw("DELETE", "/api/repos/delete", json={"name": name}).status_code


def test_commits_at_once_do_not_pass_a_quota(any_server: HubServer) -> None:
    ada, store = Api(any_server, "ada"), any_server.running.serving.store
    ada("POST", "/api/repos/create", {"name": "ner"})
    with store.database.writing() as session:
        quotas.set_quota(session, "ada", 1_500_000)
    data = [os.urandom(500_000).hex().encode() for _ in range(6)]
    codes = together(*(committing(ada, "ada/ner", f"{n}.txt", one) for n, one in enumerate(data)))
    assert sorted(codes) == [200, 403, 403, 403, 403, 403]
    with store.database.reading() as session:
        assert quotas.used(session, "ada") == 1_000_000


def test_uploads_at_once_do_not_pass_a_quota(any_server: HubServer) -> None:
    ada, store = Api(any_server, "ada"), any_server.running.serving.store
    for name in "ab":
        ada("POST", "/api/repos/create", {"name": name})
    with store.database.writing() as session:
        quotas.set_quota(session, "ada", 700)

    def receiving(n: int) -> Callable[[], bool]:
        data = bytes([n]) * 500
        blob = Blob(sha256_bytes(data), len(data))
        store.blobs.put(blob.sha256, data, origin="test")

        def receive() -> bool:
            try:
                uploads.received(store, Reference.parse(f"ada/{'ab'[n % 2]}"), [blob], token=ada.token[:11])
            except Forbidden:
                return False
            return True

        return receive

    assert sum(together(*map(receiving, range(8)))) == 1


def test_moves_deletions_and_commits_at_once(any_server: HubServer) -> None:
    ada, store = Api(any_server, "ada"), any_server.running.serving.store
    for n in range(6):
        for name in "abcd":
            ada("POST", "/api/repos/create", {"name": f"{name}{n}"})
        moved = together(*(moving(ada, f"ada/{name}{n}", f"ada/e{n}") for name in "ab"))
        assert sorted(moved) == [200, 409]
        commits = [committing(ada, f"ada/c{n}", f"{k}.txt", b"x") for k in range(3)]
        assert set(together(moving(ada, f"ada/c{n}", f"ada/f{n}"), *commits)) <= {200, 404}
        commits = [committing(ada, f"ada/d{n}", f"{k}.txt", b"x") for k in range(3)]
        deleted, *others = together(deleting(ada, f"d{n}"), *commits)
        assert (deleted, set(others) <= {200, 404}) == (200, True)
    with store.database.reading() as session:
        kept = set(session.scalars(select(RepoRow.sequence)))
        index = text_index(session)
        assert set(session.scalars(select(index.key))) == kept
        assert session.scalar(select(func.count()).select_from(RepoRow)) == 18
    assert check(store).whole


@pytest.mark.slow
def test_pushes_to_a_new_and_an_old_name_at_once(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make the row of a structure that the hub has not seen, and entries of the audit log: in the same order."""
    root, url = tmp_path / "hub", new_database()
    store = Store.open(root, database=url)
    with store.database.writing() as session:
        repos.make(session, Reference.parse("acme/old"))
    made, record = threading.Barrier(2), knowledge.record

    def slowly(session: Session, version: VersionRow, *given: Any) -> None:
        if version.repo.name == "new":  # it comes second, and waits for the other to end
            made.wait()
        record(session, version, *given)
        if version.repo.name == "old":
            made.wait()

    monkeypatch.setattr(knowledge, "record", slowly)

    def pushing(name: str, seed: int) -> Callable[[], int]:
        artifact = write_adapter(tmp_path / f"{seed}", seed=seed)
        return lambda: EmbeddedHub(root, database=url).push(artifact, name).number

    assert together(pushing("acme/old", 1), pushing("acme/new", 2)) == [1, 1]
    assert check(store).whole
    with store.database.reading() as session:
        actions = [entry.action for entry in audit.entries(session, repo="acme/new")]
    assert actions == ["version", "commit", "repo.made"]


def waits(store: Store) -> bool:
    """Whether a transaction waits for another's lock."""
    with store.database.reading() as session:
        asked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(session.scalar(asked))


@pytest.mark.slow
def test_a_commit_in_a_deadlock_is_made_all_the_same(new_database: Callable[[], str], tmp_path: Path) -> None:
    """It holds its repository's row and waits for the quota's, whose holder waits for the repository's."""
    with live(tmp_path / "served", database=new_database()) as server:
        ada, store = Api(server, "ada"), server.running.serving.store
        ada("POST", "/api/repos/create", {"name": "ner", "type": "model"})
        with store.database.writing() as session:
            quotas.set_quota(session, "ada", 2**30)
            key = session.scalars(select(RepoRow.id)).one()
        with ThreadPoolExecutor(1) as pool, store.database.writing() as other:
            other.get(QuotaRow, "ada", with_for_update=True)
            made = pool.submit(committing(ada, "ada/ner", "a.txt", b"a"))
            while not waits(store):
                time.sleep(0.01)
            other.get(RepoRow, key, with_for_update=True)  # PostgreSQL undoes who waited first
        assert made.result() == 200
        assert check(store).whole
        with store.database.reading() as session:
            actions = [entry.action for entry in audit.entries(session)]
        assert actions.count("commit") == 1, actions


@pytest.mark.slow
def test_two_writers_that_lock_each_others_rows_both_write(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    store = Store.open(tmp_path / "hub", database=new_database())
    names = ["ada/one", "ada/two"]
    with store.database.writing() as session:
        for name in names:
            repos.make(session, Reference.parse(name))
    met = threading.Barrier(2)
    calls: list[str] = []

    @retried
    def write(first: str, second: str) -> None:
        calls.append(first)
        with store.database.writing() as session:
            repos.lock(session, require_repo(session, Reference.parse(first))).newest += 1
            session.flush()
            if len(calls) <= 2:
                met.wait(timeout=30)
            repos.lock(session, require_repo(session, Reference.parse(second))).newest += 1

    together(lambda: write(*names), lambda: write(*reversed(names)))
    assert len(calls) == 3  # one of the two was undone, and made again
    with store.database.reading() as session:
        assert session.scalars(select(RepoRow.newest)).all() == [2, 2]
