"""Schema 2: a version becomes a commit on main, files become paths of blobs, what lists look at is kept once a repository.

What old tables do not say stays unsaid: cards are read again at the next push.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

from adapthub.hub.storage.migrations.governance import create_governance
from adapthub.hub.storage.migrations.knowledge_2 import create_knowledge
from adapthub.hub.storage.text import create_text_index, searchable
from adapthub.hub.storage.types import Hex, UtcDateTime

_BATCH = 1000

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OLD = ("adapters", "versions", "files", "labels", "metrics", "aliases", "alias_moves")
OLD_INDEXES = (
    "versions_by_base",
    "versions_by_base_fingerprint",
    "versions_by_task",
    "versions_by_method",
    "files_by_sha256",
    "labels_by_label",
    "metrics_by_value",
    "alias_moves_by_alias",
)


def upgrade() -> None:
    """From schema 1, which only SQLite had."""
    for index in OLD_INDEXES:
        op.drop_index(index)
    for name in OLD:
        op.rename_table(name, f"old_{name}")
    _create()
    create_governance()
    create_text_index(op.get_bind())
    _copy(op.get_bind())
    op.drop_table("adapter_text")
    for name in reversed(OLD):
        op.drop_table(f"old_{name}")


def _create() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("removed", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "blobs",
        sa.Column("id", KEY, nullable=False),
        sa.Column("sha256", Hex(), nullable=False),
        sa.Column("size", KEY, nullable=False),
        sa.Column("stored", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "repos",
        sa.Column("id", KEY, nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("gated", sa.String(), nullable=True),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("modified", UtcDateTime(), nullable=False),
        sa.Column("sequence", KEY, nullable=False),
        sa.Column("newest", KEY, nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("card", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("namespace", "name"),
        sa.UniqueConstraint("sequence"),
    )
    op.create_index("repos_by_namespace", "repos", ["namespace", "sequence"], unique=False)
    op.create_index("repos_by_name", "repos", ["name"], unique=False)
    op.create_table(
        "commits",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("oid", Hex(), nullable=False),
        sa.Column("parent_id", KEY, nullable=True),
        sa.Column("author", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("repo_id", "oid"),
    )
    op.create_table(
        "members",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("role", sa.String(length=5), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"]),
        sa.PrimaryKeyConstraint("namespace", "account_id"),
    )
    op.create_table(
        "metrics",
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.PrimaryKeyConstraint("repo_id", "name"),
        sqlite_with_rowid=False,
    )
    op.create_index("metrics_by_value", "metrics", ["name", "value", "repo_id"], unique=False)
    op.create_table(
        "terms",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("term", sa.String(), nullable=False),
        sa.Column("sequence", KEY, nullable=False),
        sa.Column("repo_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.PrimaryKeyConstraint("kind", "term", "sequence"),
        sqlite_with_rowid=False,
    )
    op.create_index("terms_by_repo", "terms", ["repo_id", "kind", "term"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("prefix", sa.String(length=11), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("scope", sa.String(length=5), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("expires", UtcDateTime(), nullable=True),
        sa.Column("revoked", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"]),
        sa.PrimaryKeyConstraint("prefix"),
    )
    op.create_table(
        "files",
        sa.Column("commit_id", KEY, nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("blob_id", KEY, nullable=False),
        sa.Column("sha1", Hex(), nullable=True),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"]),
        sa.ForeignKeyConstraint(["commit_id"], ["commits.id"]),
        sa.PrimaryKeyConstraint("commit_id", "path"),
        sqlite_with_rowid=False,
    )
    op.create_index("files_by_blob", "files", ["blob_id"], unique=False)
    op.create_table(
        "refs",
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("is_tag", sa.Boolean(), nullable=False),
        sa.Column("commit_id", KEY, nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["commit_id"], ["commits.id"]),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.PrimaryKeyConstraint("repo_id", "name"),
        sqlite_with_rowid=False,
    )
    op.create_index("refs_by_commit", "refs", ["commit_id"], unique=False)
    op.create_table(
        "versions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("number", KEY, nullable=False),
        sa.Column("digest", Hex(), nullable=False),
        sa.Column("size", KEY, nullable=False),
        sa.Column("method", sa.String(), nullable=True),
        sa.Column("task", sa.String(), nullable=True),
        sa.Column("base", sa.String(), nullable=True),
        sa.Column("base_fingerprint", sa.String(), nullable=True),
        sa.Column("rank", KEY, nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["commits.id"]),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("repo_id", "digest"),
        sa.UniqueConstraint("repo_id", "number"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", KEY, nullable=False),
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("moved", UtcDateTime(), nullable=False),
        sa.Column("source_id", KEY, nullable=True),
        sa.Column("target_id", KEY, nullable=False),
        sa.Column("undoes", KEY, nullable=True),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.ForeignKeyConstraint(["source_id"], ["versions.id"]),
        sa.ForeignKeyConstraint(["target_id"], ["versions.id"]),
        sa.ForeignKeyConstraint(["undoes"], ["alias_moves.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("undoes"),
    )
    op.create_index("moves_by_alias", "alias_moves", ["repo_id", "alias"], unique=False)
    op.create_index("moves_by_source", "alias_moves", ["source_id"], unique=False)
    op.create_index("moves_by_target", "alias_moves", ["target_id"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("version_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("repo_id", "alias"),
        sqlite_with_rowid=False,
    )
    op.create_index("aliases_by_version", "aliases", ["version_id"], unique=False)
    op.create_index("versions_by_digest", "versions", ["digest"], unique=False)
    _create_upkeep()
    create_knowledge()


def _create_upkeep() -> None:
    op.create_table(
        "sent",
        sa.Column("repo_id", KEY, nullable=False),
        sa.Column("blob_id", KEY, nullable=False),
        sa.Column("sent", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"]),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.PrimaryKeyConstraint("repo_id", "blob_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("sent_by_blob", "sent", ["blob_id"], unique=False)
    op.create_table(
        "hub_epoch",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("number", KEY, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "hub_secret",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "quotas",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("bytes", KEY, nullable=False),
        sa.PrimaryKeyConstraint("namespace"),
    )
    op.create_table(
        "logins",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=9), nullable=False),
        sa.Column("expires", UtcDateTime(), nullable=False),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("scope", sa.String(length=5), nullable=True),
        sa.Column("denied", sa.Boolean(), nullable=False),
        sa.Column("approver", sa.String(length=11), nullable=True),
        sa.Column("address", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
        sa.UniqueConstraint("code"),
    )


def _copy(bind: sa.Connection) -> None:
    """Every row of the old tables into the new ones. A version keeps its key, and its commit gets the same one."""
    tables = sa.MetaData()
    tables.reflect(bind, only=[f"old_{name}" for name in OLD])
    old = {name: tables.tables[f"old_{name}"] for name in OLD}
    adapters = {row.id: row for row in bind.execute(old["adapters"].select())}
    versions = list(bind.execute(old["versions"].select().order_by(old["versions"].c.id)))
    newest = {row.adapter_id: row for row in versions}  # numbers grow with keys
    first = {row.adapter_id: row for row in reversed(versions)}
    sequences = {row.adapter_id: at for at, row in enumerate(sorted(newest.values(), key=_key), start=1)}
    labels = _grouped(bind, old["labels"].select().order_by(old["labels"].c.position))
    metrics = _grouped(bind, old["metrics"].select())
    terms = {id: _terms(row, [label.label for label in labels.get(row.id, [])]) for id, row in newest.items()}
    _insert(
        bind,
        "repos",
        (
            {
                "id": id,
                "namespace": adapters[id].namespace,
                "name": adapters[id].name,
                "private": False,
                "gated": None,
                "created": first[id].created,
                "modified": row.created,
                "sequence": sequences[id],
                "newest": row.number,
                "tags": [term for kind, term in terms[id] if kind == "tag"],
                "card": {},
            }
            for id, row in newest.items()
        ),
    )
    _insert(bind, "commits", _commits(versions, adapters))
    _insert(bind, "versions", (_version(row, labels, metrics) for row in versions))
    _insert(
        bind,
        "refs",
        (
            {"repo_id": id, "name": "main", "is_tag": False, "commit_id": row.id, "message": ""}
            for id, row in newest.items()
        ),
    )
    _insert(
        bind,
        "terms",
        (
            {"kind": kind, "term": term, "sequence": sequences[id], "repo_id": id}
            for id, found in terms.items()
            for kind, term in found
        ),
    )
    _insert(
        bind,
        "metrics",
        (
            {"repo_id": id, "name": metric.name, "value": metric.value}
            for id, row in newest.items()
            for metric in metrics.get(row.id, [])
            if metric.headline
        ),
    )
    _copy_files(bind, old["files"], {row.id: row.created for row in versions})
    for statement in (
        "INSERT INTO aliases (repo_id, alias, version_id) SELECT adapter_id, alias, version_id FROM old_aliases",
        "INSERT INTO alias_moves (id, repo_id, alias, moved, source_id, target_id, undoes)"
        " SELECT id, adapter_id, alias, moved, source_id, target_id, undoes FROM old_alias_moves ORDER BY id",
    ):
        bind.exec_driver_sql(statement)
    for id, text in bind.exec_driver_sql("SELECT rowid, text FROM adapter_text").all():
        bind.exec_driver_sql(
            "INSERT INTO repo_text (rowid, text) VALUES (?, ?)", (sequences[id], searchable(text))
        )


def _commits(versions: list[Any], adapters: dict[int, Any]) -> Iterator[dict[str, Any]]:
    parents: dict[int, int] = {}
    for row in versions:
        adapter = adapters[row.adapter_id]
        identity = f"{adapter.namespace}/{adapter.name} {row.number} {row.digest} {row.created}"
        yield {
            "id": row.id,
            "repo_id": row.adapter_id,
            "oid": hashlib.sha1(identity.encode()).hexdigest(),
            "parent_id": parents.get(row.adapter_id),
            "author": None,
            "message": row.message,
            "created": row.created,
        }
        parents[row.adapter_id] = row.id


def _version(row: Any, labels: dict[int, list[Any]], metrics: dict[int, list[Any]]) -> dict[str, Any]:
    measured = sorted(metrics.get(row.id, []), key=lambda metric: (metric.split, metric.name))
    return {
        "id": row.id,
        "repo_id": row.adapter_id,
        "number": row.number,
        "digest": row.digest,
        "size": row.size,
        "method": row.method,
        "task": row.task,
        "base": row.base,
        "base_fingerprint": row.base_fingerprint,
        "rank": row.rank,
        "labels": [label.label for label in labels.get(row.id, [])],
        "metrics": [[one.split, one.name, one.value, one.low, one.high, one.n] for one in measured],
    }


def _copy_files(bind: sa.Connection, files: sa.Table, created: dict[int, Any]) -> None:
    """Files of schema 1 have no id of git's: it is as if they had come by LFS."""
    keys: dict[str, int] = {}
    blobs: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    for row in bind.execute(files.select()):
        if row.sha256 not in keys:
            keys[row.sha256] = len(keys) + 1
            blobs.append(
                {
                    "id": keys[row.sha256],
                    "sha256": row.sha256,
                    "size": row.size,
                    "stored": created[row.version_id],
                }
            )
        paths.append(
            {"commit_id": row.version_id, "path": row.path, "blob_id": keys[row.sha256], "sha1": None}
        )
    _insert(bind, "blobs", blobs)
    _insert(bind, "files", paths)


def _terms(row: Any, labels: list[str]) -> list[tuple[str, str]]:
    tags = ["peft", row.task, row.method, f"base_model:adapter:{row.base}" if row.base else None]
    single = (
        ("task", row.task),
        ("base", row.base),
        ("fingerprint", row.base_fingerprint),
        ("method", row.method),
    )
    found = [(kind, term) for kind, term in single if term is not None]
    found += [("tag", tag) for tag in dict.fromkeys(tags) if tag is not None]
    return found + [("label", label) for label in dict.fromkeys(labels)]


def _grouped(bind: sa.Connection, query: sa.Select[Any]) -> dict[int, list[Any]]:
    groups: dict[int, list[Any]] = {}
    for row in bind.execute(query):
        groups.setdefault(row.version_id, []).append(row)
    return groups


def _key(row: Any) -> int:
    key: int = row.id
    return key


def _insert(bind: sa.Connection, name: str, rows: Iterable[dict[str, Any]]) -> None:
    types: dict[str, Any] = {
        "oid": Hex(),
        "digest": Hex(),
        "sha256": Hex(),
        "sha1": Hex(),
        "labels": sa.JSON(),
        "metrics": sa.JSON(),
        "tags": sa.JSON(),
        "card": sa.JSON(),
        "created": sa.DateTime(),
        "modified": sa.DateTime(),
        "stored": sa.DateTime(),
    }
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH)):
        columns = [sa.column(column, types.get(column, sa.types.NullType())) for column in batch[0]]
        bind.execute(sa.insert(sa.table(name, *columns)), batch)
