"""A hub that was filled by bulk, for measurements, holds what as many real publishes leave behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from adapthub.adapters.admission import CARD, CONFIG, MANIFEST, WEIGHTS
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.adapters.manifest import Metric as Measured
from adapthub.hub import audit, family
from adapthub.hub.access import Caller
from adapthub.hub.bases import add_base
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.knowledge import known_of
from adapthub.hub.lineage import parent_of
from adapthub.hub.registry import Version
from adapthub.hub.storage.governance_tables import AuditRow
from adapthub.hub.storage.knowledge_tables import BoardRow, ParentRow, ResultRow
from adapthub.hub.storage.tables import (
    AliasMoveRow,
    AliasRow,
    Base,
    CommitRow,
    MetricRow,
    RefRow,
    RepoRow,
    TermRow,
    VersionRow,
)
from adapthub.hub.storage.text import text_index
from adapthub.hub.store import BLOBS, Store
from benchmarks.hub.fill import fill
from benchmarks.hub.population import (
    ALIAS,
    BASES,
    FINGERPRINTS,
    RANK,
    WIDTH,
    Adapter,
    Population,
    known_base,
    modules_of,
)

POPULATION = Population(5)
VERSION = ("number", "method", "task", "base", "base_fingerprint", "rank", "labels", "metrics")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def new_url(request: pytest.FixtureRequest) -> Callable[[], str | None]:
    """Where an empty database is; None is SQLite in the hub's folder."""
    if request.param == "sqlite":
        return lambda: None
    url: Callable[[], str] = request.getfixturevalue("new_database")
    return url


def test_it_holds_what_real_publishes_leave(new_url: Callable[[], str | None], tmp_path: Path) -> None:
    filled, published = new_url(), new_url()
    store = Store.open(tmp_path / "filled", database=filled)
    fill(store, tmp_path / "filled" / BLOBS, POPULATION)
    hub = EmbeddedHub(tmp_path / "published", database=published)
    real = Store.open(tmp_path / "published", database=published)
    with real.database.writing() as session:
        for base in BASES:
            add_base(session, known_base(base))
    made: dict[tuple[int, int], Version] = {}
    for adapter, number in POPULATION.publications():
        parents = [parent_of(made[parent]) for parent in adapter.parents(number)]
        artifact = write_version(tmp_path / "made" / f"{adapter.index}-{number}", adapter, number, parents)
        alias = ALIAS if adapter.is_promoted(number) else None
        made[adapter.index, number] = hub.push(
            artifact, adapter.full_name, message=adapter.message(number), alias=alias
        )
    with real.database.writing() as session:
        private = [adapter.name for adapter in POPULATION.adapters if adapter.private]
        session.execute(update(RepoRow).where(RepoRow.name.in_(private)).values(private=True))
    ours, theirs = state(store), state(real)
    for name, repo in theirs.pop("repos").items():
        for part, expected in repo.items():
            assert ours["repos"][name][part] == expected, (name, part)
    assert ours.pop("repos").keys() == set(theirs["names"])
    assert ours == theirs
    with store.database.reading() as session:
        audit.verify(session)
    # And it goes on.
    again = EmbeddedHub(tmp_path / "filled", cache=tmp_path / "cache", database=filled)
    first = POPULATION.adapters[0]
    artifact = write_version(tmp_path / "next", first, first.versions + 1, [])
    assert again.push(artifact, first.full_name).number == first.versions + 1
    assert again.push(artifact, "acme/new").number == 1


def write_version(folder: Path, adapter: Adapter, number: int, parents: list[str]) -> Artifact:
    """A version of an adapter of the population, with real bytes."""
    weights = numpy.full((RANK, WIDTH), adapter.index + number / 100, dtype=numpy.float32)
    tensors = {
        f"base_model.model.{module}.lora_{part}.weight": tensor
        for module in modules_of(adapter.base, adapter.targets)
        for part, tensor in (("A", weights), ("B", weights.T.copy()))
    }
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": adapter.index + 1,
        "target_modules": [*adapter.targets],
        "base_model_name_or_path": adapter.base,
    }
    files = {
        CONFIG: json.dumps(config).encode(),
        WEIGHTS: save(tensors),
        CARD: adapter.card.encode(),
    }
    metrics: dict[str, dict[str, Measured]] = {}
    for one in adapter.measured(number):
        measured = Measured(value=one.value, low=one.low, high=one.high, n=one.n)
        metrics.setdefault(one.split, {})[one.name] = measured
    manifest = Manifest(
        task=adapter.task,
        labels=adapter.labels or None,
        base=BaseRecord(id=adapter.base, fingerprint=FINGERPRINTS[adapter.base]),
        method=adapter.method,
        data=adapter.data,
        metrics=metrics,
        parents=parents,
        files={name: sha256_bytes(data) for name, data in files.items()},
    )
    folder.mkdir(parents=True)
    for name, data in {**files, MANIFEST: manifest.to_json()}.items():
        (folder / name).write_bytes(data)
    return Artifact.read(folder)


def state(store: Store) -> dict[str, Any]:
    """All that a hub's database holds, without keys, times, and what follows from bytes."""
    with store.database.reading() as session:
        repos = session.scalars(select(RepoRow).order_by(RepoRow.sequence)).all()
        index = text_index(session)
        texts = session.execute(select(index.text).select_from(index.table).order_by(index.key))
        return {
            "rows": Counter(
                {
                    table.name: session.scalar(select(func.count()).select_from(table))
                    for table in Base.metadata.sorted_tables
                }
            ),
            "texts": [text for (text,) in texts],
            "audit": [
                (one.action, one.repo, one.namespace, one.actor, unpinned(one.detail))
                for one in session.scalars(select(AuditRow).order_by(AuditRow.number))
            ],
            "results": sorted(results(session)),
            "names": [repo.full_name for repo in repos],
            "repos": {repo.full_name: repo_state(session, repo) for repo in repos},
        }


def unpinned(detail: dict[str, Any]) -> dict[str, Any]:
    """What an entry of the audit log says, without what follows from bytes; bases have no bytes."""
    return {
        key: value for key, value in detail.items() if key not in ("commit", "digest") or "base" in detail
    }


def results(session: Session) -> Iterator[tuple[Any, ...]]:
    """What is on the boards."""
    rows = select(BoardRow, ResultRow, RepoRow, VersionRow).join(ResultRow, ResultRow.board_id == BoardRow.id)
    rows = rows.join(RepoRow, RepoRow.id == ResultRow.repo_id)
    for board, result, repo, version in session.execute(
        rows.join(VersionRow, VersionRow.id == ResultRow.version_id)
    ):
        where = (board.base, board.task, board.dataset, result.source, result.rows)
        yield (
            *where,
            result.metric,
            repo.full_name,
            version.number,
            result.value,
            result.low,
            result.high,
            result.n,
        )


def repo_state(session: Session, repo: RepoRow) -> dict[str, Any]:
    def of(row: Any, *order: Any) -> list[Any]:
        return [*session.scalars(select(row).where(row.repo_id == repo.id).order_by(*order))]

    commits = of(CommitRow, CommitRow.id)
    places = {None: None} | {commit.id: place for place, commit in enumerate(commits)}
    blobs: dict[tuple[str, int], int | None] = {}
    terms = of(TermRow, TermRow.kind, TermRow.term)
    versions = of(VersionRow, VersionRow.number)
    known = known_of(session, [version.id for version in versions])
    return {
        "settings": (repo.private, repo.gated, repo.newest),
        "card": (repo.tags, repo.card),
        "times": (repo.created <= commits[0].created, repo.modified == commits[-1].created),
        "commits": [(one.message, one.author, places[one.parent_id]) for one in commits],
        "files": [
            (file.path, file.sha1 is None, blobs.setdefault((file.path, file.blob_id), places[one.id]))
            for one in commits
            for file in one.files
        ],
        "versions": [
            {column: getattr(one, column) for column in VERSION} | {"commit": places[one.id]}
            for one in versions
        ],
        "known": [known[one.id] for one in versions],
        "lineage": [lineage(session, one) for one in versions],
        "refs": [
            (one.name, one.is_tag, places[one.commit_id], one.message) for one in of(RefRow, RefRow.name)
        ],
        "aliases": [(one.alias, places[one.version_id]) for one in of(AliasRow, AliasRow.alias)],
        "moves": [
            (one.alias, places[one.source_id], places[one.target_id], one.undoes)
            for one in of(AliasMoveRow, AliasMoveRow.id)
        ],
        "terms": [(one.kind, one.term, one.sequence == repo.sequence) for one in terms],
        "metrics": [(one.name, one.value) for one in of(MetricRow, MetricRow.name)],
    }


def lineage(session: Session, version: VersionRow) -> tuple[Any, ...]:
    """A version's parents and all that it comes from and that came of it, by name and number."""
    found = family.lineage_of(session, Caller(alone=True), version)
    edges = select(ParentRow).where(ParentRow.version_id == version.id).order_by(ParentRow.position)
    return (
        [edge.name for edge in session.scalars(edges)],
        [(one.name, one.number) for one in found.versions.values()],
        [(one.name, one.number) for one in found.descendants.values()],
        found.unpinned,
    )
