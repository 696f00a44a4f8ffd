"""What came before a commit: its history, newest first, and the commit that last changed each path of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import literal, select
from sqlalchemy.orm import Session

from adapthub.hub.storage.tables import CommitRow
from adapthub.hub.trees import read_tree, read_trees

_LOOKED_THROUGH = 1000
_AT_ONCE = 20


def history(session: Session, end: CommitRow, *, limit: int, skip: int = 0) -> Sequence[CommitRow]:
    """`end` and what it was made from, newest first: `limit` commits after the first `skip`."""
    start = select(CommitRow.id, CommitRow.parent_id, literal(0).label("depth")).where(CommitRow.id == end.id)
    line = start.cte("line", recursive=True)
    parents = select(CommitRow.id, CommitRow.parent_id, line.c.depth + 1)
    line = line.union_all(
        parents.join(line, CommitRow.id == line.c.parent_id).where(line.c.depth + 1 < skip + limit)
    )
    query = select(CommitRow).join(line, line.c.id == CommitRow.id).where(line.c.depth >= skip)
    return session.scalars(query.order_by(line.c.depth)).all()


def last_changes(session: Session, end: CommitRow, paths: Iterable[str]) -> dict[str, CommitRow]:
    """The commit that gave each path the bytes that it has in `end`. Looks back 1000 commits: what is older is said to be as
    old as that."""
    tree = read_tree(session, end.id)
    open_paths = {path for path in paths if path in tree}
    found = dict.fromkeys(open_paths, end)
    skip = 1
    while open_paths and skip < _LOOKED_THROUGH:
        older = history(session, end, limit=_AT_ONCE, skip=skip)
        trees = read_trees(session, [commit.id for commit in older])
        for commit in older:
            before = trees[commit.id]
            same = {
                path for path in open_paths if path in before and before[path].sha256 == tree[path].sha256
            }
            found |= dict.fromkeys(same, commit)
            open_paths = same
        if len(older) < _AT_ONCE:
            break
        skip += _AT_ONCE
    return found
