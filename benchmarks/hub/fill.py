"""Fills a hub's empty database with a population, by bulk: the rows that as many real publishes leave behind, in minutes.

A test holds it against real publishes. Only some of the cards have blobs behind them: the digests of all else are made up.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from adapthub.adapters.admission import CARD, CONFIG, MANIFEST, WEIGHTS
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.audit import START
from adapthub.hub.cards import tags_of
from adapthub.hub.facts import headlines, search_text
from adapthub.hub.indexing import PEFT, terms_of
from adapthub.hub.records import bare_digest
from adapthub.hub.registry import Facts, Metric
from adapthub.hub.storage.blobs import key_of
from adapthub.hub.storage.governance_tables import AuditRow
from adapthub.hub.storage.knowledge_tables import (
    BaseModelRow,
    BoardRow,
    KnowledgeRow,
    ParentRow,
    ResultRow,
    StructureRow,
)
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
from adapthub.hub.storage.text import TextIndex, searchable, text_index
from adapthub.hub.store import Store
from adapthub.hub.structure import Structure, to_json
from adapthub.hub.trees import Blob, git_oid
from benchmarks.hub.bulk import Bulk, Rows, bulk
from benchmarks.hub.population import ALIAS, BASES, RANK, Adapter, Population, known_base, modules_of

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
    with store.database.reading() as session:
        texts = text_index(session)
    with bulk(store.database) as into:
        _fill_repos(into, population, texts)
        _fill_histories(into, population)
    with store.database.writing() as session:
        if session.get_bind().dialect.name == "postgresql":
            _count_on(session)


@dataclass
class _History:
    """Where a repository is: the keys of its last commit, of what is promoted, and of the blobs of its files by path, with
    git's ids of those; the number of its version with the key `promoted`, and the digests of its versions."""

    last: int | None = None
    promoted: int | None = None
    in_use: int | None = None
    blobs: dict[str, tuple[int, str | None]] = field(default_factory=dict)


def _fill_histories(into: Bulk, population: Population) -> None:
    histories = [_History() for _ in population.adapters]
    tables = into.rows(
        BlobRow, CommitRow, FileRow, VersionRow, AliasMoveRow, StructureRow, KnowledgeRow, ParentRow, AuditRow
    )
    blobs, commits, files, versions, moves, structures, knowledge, parents, entries = tables
    structure_keys: dict[str, int] = {}
    audit = _Audit(entries)
    _fill_bases(into, audit)
    keys, move_keys = count(1), count(1)
    places: dict[tuple[int, int], int] = {}
    for place, (adapter, number) in enumerate(population.publications(), start=1):
        now = _when(place)
        history = histories[adapter.index]
        repo = adapter.index + 1
        name, oid, digest = adapter.full_name, _digest(f"commit {place}")[:40], _version_digest(place)
        commits.add(
            id=place, repo_id=repo, oid=oid, author=None,
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
            id=place, repo_id=repo, number=number, digest=digest, size=20_000_000, method=facts.method,
            task=facts.task, base=facts.base, base_fingerprint=facts.base_fingerprint, rank=facts.rank,
            labels=_canonical(list(facts.labels or ())), metrics=_canonical([_measured(one) for one in facts.metrics]),
        )  # fmt: skip
        of_structure, document = _structure(adapter.base, adapter.targets)
        if of_structure not in structure_keys:
            structure_keys[of_structure] = len(structure_keys) + 1
            structures.add(id=structure_keys[of_structure], digest=of_structure, document=document)
        knowledge.add(
            version_id=place, structure_id=structure_keys[of_structure], verdict="fits",
            checked=bare_digest(adapter.base_fingerprint), differences="[]", unpinned="[]",
        )  # fmt: skip
        for position, parent in enumerate(adapter.parents(number)):
            of = population.adapters[parent[0]].full_name
            parents.add(version_id=place, parent=_version_digest(places[parent]), name=of, position=position)
        if number == 1:
            audit.add(now, name, "repo.made", private=False)
        audit.add(now, name, "commit", commit=oid, branch=MAIN, title=adapter.message(number))
        audit.add(now, name, "version", version=number, digest=digest)
        if adapter.is_promoted(number):
            moves.add(
                id=next(move_keys), repo_id=repo, alias=ALIAS, moved=now, source_id=history.promoted, target_id=place,
                undoes=None,
            )  # fmt: skip
            before = history.in_use
            detail = {"alias": ALIAS, "from": before, "to": number, "digest": digest, "rollback": False}
            audit.add(now, name, "alias.moved", **detail)
            history.promoted, history.in_use = place, number
        history.last = places[adapter.index, number] = place
        if place % _BATCH == 0:
            into.send(tables)
    into.send(tables)
    tables = into.rows(RefRow, AliasRow)
    refs, aliases = tables
    for repo, history in enumerate(histories, start=1):
        refs.add(repo_id=repo, name=MAIN, is_tag=False, commit_id=history.last, message="")
        aliases.add(repo_id=repo, alias=ALIAS, version_id=history.promoted)
    into.send(tables)
    _fill_boards(into, population, [history.last for history in histories])


def _fill_bases(into: Bulk, audit: _Audit) -> None:
    """Every base, as recorded before anything was published."""
    tables = into.rows(BaseModelRow)
    for key, base in enumerate(BASES, start=1):
        record = known_base(base)
        digest = bare_digest(record.fingerprint.digest)
        tables[0].add(
            id=key, digest=digest, name=base, revision=None, model_type=record.model_type, added=_BEGINNING,
            document=zlib.compress(record.to_json()),
        )  # fmt: skip
        audit.add(_BEGINNING, None, "base.added", base=base, digest=f"sha256:{digest}")
    into.send(tables)


@cache
def _structure(base: str, targets: tuple[str, ...]) -> tuple[str, bytes]:
    """The digest and the document of the structure of an adapter."""
    ranks = dict.fromkeys(modules_of(base, targets), RANK)
    packed = to_json(Structure("lora", False, ranks, (), targets))
    return sha256_bytes(packed), zlib.compress(packed)


def _fill_boards(into: Bulk, population: Population, newest: Sequence[int | None]) -> None:
    tables = into.rows(BoardRow, ResultRow)
    boards, results = tables
    keys: dict[tuple[str, str, str], int] = {}
    for adapter, version in zip(population.adapters, newest, strict=True):
        for metric in adapter.measured(adapter.versions):
            data = adapter.data[metric.split]
            board = bare_digest(adapter.base_fingerprint), adapter.task, data.fingerprint
            if board not in keys:
                keys[board] = len(keys) + 1
                boards.add(id=keys[board], base=board[0], task=board[1], dataset=board[2])
            results.add(
                board_id=keys[board], metric=metric.name, repo_id=adapter.index + 1, version_id=version,
                value=metric.value, low=metric.low, high=metric.high, n=metric.n, source=data.source, rows=data.rows,
            )  # fmt: skip
    into.send(tables)


class _Audit:
    """The audit log: each entry has the hash of the one before."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._number, self._hash = 0, START

    def add(self, time: datetime, repo: str | None, action: str, **detail: Any) -> None:
        """One thing that the machine itself did."""
        self._number += 1
        namespace = None if repo is None else repo.partition("/")[0]
        said, names = _canonical(detail), (_quoted(namespace), _quoted(repo))
        # The canonical JSON, in a tenth of the time.
        text = (
            f'{{"action":"{action}","actor":null,"detail":{said},"namespace":{names[0]},"number":{self._number},'
            f'"previous":"{self._hash}","repo":{names[1]},"time":"{_iso(time)}","token":null}}'
        )
        previous, self._hash = self._hash, sha256_bytes(text.encode())
        self._rows.add(
            number=self._number, time=time, actor=None, token=None, action=action, namespace=namespace, repo=repo,
            detail=said, previous=previous, hash=self._hash,
        )  # fmt: skip


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _quoted(name: str | None) -> str:
    return "null" if name is None else f'"{name}"'


@lru_cache(64)
def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")


def _fill_repos(into: Bulk, population: Population, index: TextIndex) -> None:
    tables = into.rows(RepoRow, TermRow, MetricRow)
    repos, terms, metrics = tables
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
    into.send(tables)
    tables = into.rows(index.table)
    for sequence, found in sorted(texts):
        tables[0].add(**{str(index.key.key): sequence, "text": searchable(found)})
    into.send(tables)


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


def _version_digest(place: int) -> str:
    return _digest(f"version {place}")


def _when(place: int) -> datetime:
    return _BEGINNING + place * _BETWEEN


def _count_on(session: Session) -> None:
    """Let the next real rows in PostgreSQL get keys of their own."""
    for row in (RepoRow, BlobRow, CommitRow, AliasMoveRow, BaseModelRow, StructureRow, BoardRow):
        name = row.__tablename__
        session.execute(
            text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")
        )
    session.execute(text(f"SELECT setval('{SEQUENCE.name}', (SELECT max(sequence) FROM repos))"))


def _digest(what: str) -> str:
    return sha256_bytes(what.encode())
