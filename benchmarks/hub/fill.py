"""Fills a hub's empty database with a population, by bulk: the rows that as many real publishes leave behind, in minutes.

A test holds it against real publishes. Only some of the cards have blobs behind them: the digests of all else are made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Dialect, Table, text
from sqlalchemy.orm import DeclarativeBase, Session

from adapthub.adapters.admission import CARD, CONFIG, MANIFEST, WEIGHTS
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.cards import tags_of
from adapthub.hub.facts import headlines, search_text
from adapthub.hub.indexing import PEFT, terms_of
from adapthub.hub.registry import Facts, Metric
from adapthub.hub.storage.blobs import key_of
from adapthub.hub.storage.database import Database
from adapthub.hub.storage.tables import (
    MAIN,
    SEQUENCE,
    AliasMoveRow,
    AliasRow,
    BlobRow,
    CommitRow,
    FileRow,
    MetricRow,
    RefRow,
    RepoRow,
    TermRow,
    VersionRow,
)
from adapthub.hub.storage.text import put_text
from adapthub.hub.storage.types import UtcDateTime
from adapthub.hub.store import Store
from adapthub.hub.trees import Blob, git_oid
from benchmarks.hub.population import ALIAS, RANK, Adapter, Population

_BATCH = 10_000
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
_BETWEEN = timedelta(seconds=20)
_PATHS = (CARD, WEIGHTS, CONFIG, MANIFEST)
_ALWAYS_NEW = (WEIGHTS, MANIFEST)


def fill(store: Store, blobs: Path, population: Population) -> None:
    """Let `store`, which is empty and has its blobs in the folder `blobs`, hold `population`."""
    for adapter in population.with_bytes:
        card = adapter.card.encode()
        path = blobs / key_of(sha256_bytes(card))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(card)  # unsynced: nobody is told that it is there
    with _without_indexes(store.database, [CommitRow, FileRow, VersionRow, RefRow, AliasMoveRow, BlobRow]):
        _fill_repos(store.database, population)
        _fill_histories(store.database, population)
    with store.database.writing() as session:
        if session.get_bind().dialect.name == "postgresql":
            _count_on(session)
            session.execute(text("ANALYZE"))  # as its autovacuum does soon


@dataclass
class _History:
    """Where a repository is: the keys of its last commit, of what is promoted, and of the blobs of its files by path, with
    git's ids of those."""

    last: int | None = None
    promoted: int | None = None
    blobs: dict[str, tuple[int, str | None]] = field(default_factory=dict)


def _fill_histories(database: Database, population: Population) -> None:
    histories = [_History() for _ in population.adapters]
    tables = _Tables(database, BlobRow, CommitRow, FileRow, VersionRow, AliasMoveRow)
    blobs, commits, files, versions, moves = tables.rows
    keys, move_keys = count(1), count(1)
    for place, (adapter, number) in enumerate(population.publications(), start=1):
        now = _when(place)
        history = histories[adapter.index]
        repo = adapter.index + 1
        commits.add(
            id=place, repo_id=repo, oid=_digest(f"commit {place}")[:40], author=None,
            parent_id=history.last, message=adapter.message(number), created=now,
        )  # fmt: skip
        for path in _PATHS:
            if path in _ALWAYS_NEW or path not in history.blobs:
                key = next(keys)
                blob = _card(adapter) if path == CARD else _made_up(path, key)
                history.blobs[path] = key, blob.sha1
                blobs.add(id=key, sha256=blob.sha256, size=blob.size, stored=now)
            blob_id, sha1 = history.blobs[path]
            files.add(commit_id=place, path=path, blob_id=blob_id, sha1=sha1)
        facts = _facts(adapter, number)
        versions.add(
            id=place, repo_id=repo, number=number, digest=_digest(f"version {place}"), size=20_000_000, method=facts.method,
            task=facts.task, base=facts.base, base_fingerprint=facts.base_fingerprint, rank=facts.rank,
            labels=list(facts.labels or ()), metrics=[_measured(metric) for metric in facts.metrics],
        )  # fmt: skip
        if adapter.is_promoted(number):
            moves.add(
                id=next(move_keys), repo_id=repo, alias=ALIAS, moved=now, source_id=history.promoted, target_id=place,
                undoes=None,
            )  # fmt: skip
            history.promoted = place
        history.last = place
        if place % _BATCH == 0:
            tables.send()
    tables.send()
    tables = _Tables(database, RefRow, AliasRow)
    refs, aliases = tables.rows
    for repo, history in enumerate(histories, start=1):
        refs.add(repo_id=repo, name=MAIN, is_tag=False, commit_id=history.last, message="")
        aliases.add(repo_id=repo, alias=ALIAS, version_id=history.promoted)
    tables.send()


def _fill_repos(database: Database, population: Population) -> None:
    tables = _Tables(database, RepoRow, TermRow, MetricRow)
    repos, terms, metrics = tables.rows
    texts: list[tuple[int, str]] = []
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, (adapter, _) in enumerate(population.publications(), start=1):
        first.setdefault(adapter.index, place)
        last[adapter.index] = place
    for adapter in population.adapters:
        repo, sequence = adapter.index + 1, last[adapter.index]
        facts = _facts(adapter, adapter.versions)
        card = adapter.card
        metadata = adapter.metadata
        tags = tags_of(
            {"library_name": PEFT, **metadata}, base=facts.base, task=facts.task, method=facts.method
        )
        repos.add(
            id=repo, namespace=adapter.namespace, name=adapter.name, private=adapter.private, gated=None,
            created=_when(first[adapter.index]), modified=_when(sequence),
            sequence=sequence, newest=adapter.versions, tags=tags, card=metadata,
        )  # fmt: skip
        for kind, term in terms_of(tags, facts):
            terms.add(kind=kind, term=term, sequence=sequence, repo_id=repo)
        shown = headlines(facts.metrics)
        for metric in facts.metrics:
            if (metric.split, metric.name) in shown:
                metrics.add(repo_id=repo, name=metric.name, value=metric.value)
        message = adapter.message(adapter.versions)
        texts.append((sequence, search_text(adapter.full_name, facts, message, card)))
    tables.send()
    texts.sort()
    for start in range(0, len(texts), _BATCH):
        with database.writing() as session:
            for sequence, found in texts[start : start + _BATCH]:
                put_text(session, sequence, found)


def _card(adapter: Adapter) -> Blob:
    data = adapter.card.encode()
    return Blob(sha256_bytes(data), len(data), git_oid(data))


def _made_up(path: str, key: int) -> Blob:
    digest = _digest(f"{path} {key}")
    return Blob(digest, 20_000_000 + key, None) if path == WEIGHTS else Blob(digest, 1_000, digest[:40])


def _facts(adapter: Adapter, number: int) -> Facts:
    return Facts(
        method=adapter.method,
        task=adapter.task,
        labels=adapter.labels or None,
        base=adapter.base,
        base_fingerprint=adapter.base_fingerprint,
        rank=RANK,
        metrics=adapter.measured(number),
    )


def _measured(metric: Metric) -> list[Any]:
    return [metric.split, metric.name, metric.value, metric.low, metric.high, metric.n]


def _when(place: int) -> datetime:
    return _BEGINNING + place * _BETWEEN


class _Rows:
    """Rows of one table on their way to the database: SQLite by executemany, PostgreSQL by COPY, converted as SQLAlchemy
    would."""

    def __init__(self, row: type[DeclarativeBase], dialect: Dialect) -> None:
        self._table = _table(row)
        self._names = [column.name for column in self._table.columns]
        converters = [
            (place, column.type.dialect_impl(dialect).bind_processor(dialect))
            for place, column in enumerate(self._table.columns)
        ]
        kept = lru_cache(64)  # neighbours have the same time
        self._converters = [
            (place, kept(convert) if isinstance(self._table.columns[place].type, UtcDateTime) else convert)
            for place, convert in converters
            if convert is not None
        ]
        self._rows: list[list[Any]] = []

    def add(self, **values: Any) -> None:
        """Every column of it."""
        row = [values[name] for name in self._names]
        for place, convert in self._converters:
            row[place] = convert(row[place])
        self._rows.append(row)

    def send(self, connection: Connection) -> None:
        """What was added since."""
        names = ", ".join(f'"{name}"' for name in self._names)
        driver = connection.connection.driver_connection
        assert driver is not None
        cursor = driver.cursor()
        if connection.dialect.name == "sqlite":
            marks = ", ".join("?" * len(self._names))
            cursor.executemany(f"INSERT INTO {self._table.name} ({names}) VALUES ({marks})", self._rows)
        else:
            with cursor.copy(f"COPY {self._table.name} ({names}) FROM STDIN") as copy:
                for row in self._rows:
                    copy.write_row(row)
        self._rows = []


class _Tables:
    """Rows of several tables, of which a later one may point at an earlier one."""

    def __init__(self, database: Database, *rows: type[DeclarativeBase]) -> None:
        self._database = database
        with database.reading() as session:
            dialect = session.get_bind().dialect
        self.rows = [_Rows(row, dialect) for row in rows]

    def send(self) -> None:
        """What was added since, in one transaction."""
        with self._database.writing() as session:
            for rows in self.rows:
                rows.send(session.connection())


@contextmanager
def _without_indexes(database: Database, rows: Iterable[type[DeclarativeBase]]) -> Iterator[None]:
    """Within: the tables have no indexes but those of their keys; then they have again."""
    indexes = [index for row in rows for index in _table(row).indexes]
    with database.writing() as session:
        for index in indexes:
            index.drop(session.connection())
    yield
    for index in indexes:
        with database.writing() as session:
            index.create(session.connection())


def _count_on(session: Session) -> None:
    """Let the next real rows in PostgreSQL get keys of their own."""
    for row in (RepoRow, BlobRow, CommitRow, AliasMoveRow):
        name = _table(row).name
        session.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")
        )
    session.execute(text(f"SELECT setval('{SEQUENCE.name}', (SELECT max(sequence) FROM repos))"))


def _table(row: type[DeclarativeBase]) -> Table:
    table = row.__table__
    assert isinstance(table, Table)
    return table


def _digest(what: str) -> str:
    return sha256_bytes(what.encode())
