"""What versions came to, as their manifests say: put on the leaderboards of their data at publish.

Splits that an adapter was trained on do not count. Ranks nothing (leaderboard does), and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from adapthub.adapters.manifest import DataRecord, Manifest, Metric
from adapthub.hub.facts import TRAINING_SPLIT, is_unicode
from adapthub.hub.records import bare_digest
from adapthub.hub.storage.dialects import insert_new
from adapthub.hub.storage.knowledge_tables import BoardRow, ResultRow
from adapthub.hub.storage.tables import RepoRow, VersionRow

_LONGEST = 500  # characters of a metric, and of what a board is named by


def record(session: Session, version: VersionRow, manifest: Manifest | None) -> None:
    """Put what `version` came to on the boards of its data, in place of older versions of its repository."""
    if manifest is None:
        return
    for split, metrics in sorted(manifest.metrics.items()):
        key = _key(version, manifest, split)
        if key is None or not metrics:
            continue
        data = manifest.data[split]
        board = _board(session, key)
        session.execute(
            delete(ResultRow).where(ResultRow.board_id == board, ResultRow.repo_id == version.repo_id)
        )
        named = {name: found for name, found in metrics.items() if len(name) <= _LONGEST}
        if named:
            session.execute(
                insert(ResultRow),
                [_result(board, version, data, name, found) for name, found in named.items()],
            )


def forget(session: Session, repo: RepoRow) -> None:
    """Before the versions of `repo` go: their results."""
    session.execute(delete(ResultRow).where(ResultRow.repo_id == repo.id))


def _key(version: VersionRow, manifest: Manifest, split: str) -> dict[str, str] | None:
    """The board of a split; None where it is not known on what was measured, or it is what was trained on."""
    data, trained = manifest.data.get(split), manifest.data.get(TRAINING_SPLIT)
    if data is None or split == TRAINING_SPLIT or version.base_fingerprint is None or version.task is None:
        return None
    if trained is not None and trained.fingerprint == data.fingerprint:
        return None
    texts = (data.fingerprint, data.source or "", manifest.base.id)
    if not all(is_unicode(text) and len(text) <= _LONGEST for text in texts) or data.rows > 2**62:
        return None
    return {
        "base": bare_digest(version.base_fingerprint),
        "task": version.task,
        "dataset": data.fingerprint,
    }


def _board(session: Session, key: Mapping[str, str]) -> int:
    find = select(BoardRow.id).filter_by(**key)
    found = session.scalar(find)
    if found is None:
        insert_new(session, BoardRow, [dict(key)])
        found = session.scalar(find)
        assert found is not None
    return found


def _result(board: int, version: VersionRow, data: DataRecord, name: str, metric: Metric) -> dict[str, Any]:
    return {
        "board_id": board,
        "metric": name,
        "repo_id": version.repo_id,
        "version_id": version.id,
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
        "source": data.source,
        "rows": data.rows,
    }
