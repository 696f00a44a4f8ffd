"""Between the rows of a hub's tables and the values that a registry answers with. Runs no queries of its
own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from adapthub.adapters.artifact import Artifact
from adapthub.hub.facts import headlines
from adapthub.hub.registry import Alias, Entry, Facts, Metric, Move, StoredFile, Version
from adapthub.hub.storage.tables import (
    AdapterRow,
    AliasMoveRow,
    FileRow,
    LabelRow,
    MetricRow,
    VersionRow,
)


def version_row(
    artifact: Artifact, facts: Facts, *, number: int, created: datetime, message: str
) -> VersionRow:
    """A new version of some adapter, with its files, labels and metrics."""
    shown = headlines(facts.metrics)
    return VersionRow(
        number=number,
        digest=bare_digest(artifact.digest),
        created=created,
        message=message,
        size=sum(record.size for record in artifact.files.values()),
        method=facts.method,
        task=facts.task,
        base=facts.base,
        base_fingerprint=facts.base_fingerprint,
        rank=facts.rank,
        files=[
            FileRow(path=path, sha256=record.sha256, size=record.size)
            for path, record in artifact.files.items()
        ],
        labels=[LabelRow(position=i, label=label) for i, label in enumerate(facts.labels or ())],
        metrics=[
            MetricRow(
                split=metric.split,
                name=metric.name,
                value=metric.value,
                low=metric.low,
                high=metric.high,
                n=metric.n,
                headline=(metric.split, metric.name) in shown,
            )
            for metric in facts.metrics
        ],
    )


def version_of(row: VersionRow, *, repeated: bool = False) -> Version:
    """The version that `row` describes."""
    name = f"{row.adapter.namespace}/{row.adapter.name}"
    return Version(
        name, row.number, f"sha256:{row.digest}", row.created, row.message, row.size, repeated=repeated
    )


def entry_of(adapter: AdapterRow, newest: VersionRow) -> Entry:
    """An adapter in a list."""
    return Entry(
        latest=version_of(newest),
        facts=facts_of(newest, (metric for metric in newest.metrics if metric.headline)),
        versions=adapter.newest,
        aliases={alias.alias: alias.version.number for alias in adapter.aliases},
    )


def facts_of(row: VersionRow, metrics: Iterable[MetricRow]) -> Facts:
    """What was extracted from the version at its push, with those of its metrics."""
    return Facts(
        method=row.method,
        task=row.task,
        labels=tuple(label.label for label in row.labels) or None,
        base=row.base,
        base_fingerprint=row.base_fingerprint,
        rank=row.rank,
        metrics=tuple(
            Metric(metric.split, metric.name, metric.value, metric.low, metric.high, metric.n)
            for metric in metrics
        ),
    )


def aliases_of(adapter: AdapterRow) -> tuple[Alias, ...]:
    """The aliases of an adapter with their moves, by name."""
    return tuple(
        Alias(
            alias.alias,
            alias.version.number,
            tuple(_move(move) for move in adapter.moves if move.alias == alias.alias),
        )
        for alias in adapter.aliases
    )


def files_of(row: VersionRow) -> tuple[StoredFile, ...]:
    """The files of a version, by path."""
    return tuple(StoredFile(file.path, file.sha256, file.size) for file in row.files)


def bare_digest(digest: str) -> str:
    """`<hex>` of "sha256:<hex>"."""
    return digest.removeprefix("sha256:")


def _move(row: AliasMoveRow) -> Move:
    return Move(row.moved, None if row.source is None else row.source.number, row.target.number)
