"""What a version comes from, as a graph to draw: the version itself at the left, a column for each step back.

Parents are read from the manifests of versions that the visitor may see; the others are shown by the name that their child
gives them. Draws nothing.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from adapthub.adapters.admission import MANIFEST
from adapthub.hub.access import Caller, visible
from adapthub.hub.lineage import parents_in
from adapthub.hub.records import bare_digest
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Ancestor, Lineage
from adapthub.hub.storage.tables import RepoRow, VersionRow
from adapthub.hub.store import Store
from adapthub.hub.trees import find_file

MOST = 40
"""How many versions one graph has; what lies beyond is said to be left out."""

_BOX = (176.0, 40.0)
_GAP = (40.0, 16.0)
_LETTERS = 22  # that a box has room for


@dataclass(frozen=True)
class Node:
    """A version in a box whose upper left corner is at `x`, `y`. `label` fits the box; `title` is the whole of it."""

    x: float
    y: float
    label: str
    title: str
    name: str
    digest: str
    number: int | None
    found: bool


@dataclass(frozen=True)
class Graph:
    """Boxes and the lines between them, in a view box of `width` and `height`. `unpinned`: parents that name no version."""

    width: float
    height: float
    box: tuple[float, float]
    nodes: tuple[Node, ...]
    lines: tuple[str, ...]
    unpinned: tuple[str, ...]
    cut: bool


def lineage_of(store: Store, caller: Caller, name: str, digest: str) -> Lineage:
    """What the version "sha256:<hex>" of `name` comes from, as far as `caller` may see."""
    found: dict[str, Ancestor] = {}
    unpinned: dict[str, None] = {}
    waiting: deque[tuple[str, Reference]] = deque([(digest, Reference.parse(name))])
    while waiting and len(found) < MOST:
        digest_, reference = waiting.popleft()
        if digest_ in found:
            continue
        with store.database.reading() as session:
            version = _find(session, caller, reference, digest_)
            blob = None if version is None else find_file(session, version.id, MANIFEST)
        # It was checked when its version was made.
        manifest = None if blob is None else json.loads(store.read(blob, 0, blob.size))
        pinned, others = parents_in(manifest)
        unpinned |= dict.fromkeys(others)
        found[digest_] = Ancestor(
            digest_,
            reference.full_name,
            None if version is None else version.number,
            tuple(pinned),
            found=version is not None,
        )
        waiting.extend((parent, named) for parent, named in pinned.items() if parent not in found)
    cut = any(parent not in found for parent, _ in waiting)
    return Lineage(digest, found, tuple(unpinned), cut)


def draw(lineage: Lineage) -> Graph:
    """Where the boxes of `lineage` lie, and the lines from children to parents."""
    columns = _columns(lineage)
    rows: dict[int, int] = {}
    nodes: dict[str, Node] = {}
    for digest, column in columns.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        nodes[digest] = _node(lineage.versions[digest], column, row)
    lines = tuple(
        _line(nodes[digest], nodes[parent])
        for digest in columns
        for parent in lineage.versions[digest].parents
        if parent in nodes
    )
    width = (max(columns.values()) + 1) * (_BOX[0] + _GAP[0]) - _GAP[0]
    height = max(rows.values()) * (_BOX[1] + _GAP[1]) - _GAP[1]
    return Graph(width + 2, height + 2, _BOX, tuple(nodes.values()), lines, lineage.unpinned, lineage.cut)


def _columns(lineage: Lineage) -> dict[str, int]:
    """How many steps back each version is, by the longest way: so every line goes to the right."""
    columns = dict.fromkeys(lineage.versions, 0)
    for _ in range(len(columns)):  # a digest cannot be its own ancestor's, but who knows
        moved = False
        for digest, ancestor in lineage.versions.items():
            for parent in ancestor.parents:
                if parent in columns and columns[parent] <= columns[digest] < len(columns):
                    columns[parent] = columns[digest] + 1
                    moved = True
        if not moved:
            break
    return columns


def _node(ancestor: Ancestor, column: int, row: int) -> Node:
    title = ancestor.name + (f"@v{ancestor.number}" if ancestor.number is not None else "")
    return Node(
        x=1 + column * (_BOX[0] + _GAP[0]),
        y=1 + row * (_BOX[1] + _GAP[1]),
        label=title if len(title) <= _LETTERS else f"{title[: _LETTERS - 1]}…",
        title=title,
        name=ancestor.name,
        digest=ancestor.digest,
        number=ancestor.number,
        found=ancestor.found,
    )


def _line(child: Node, parent: Node) -> str:
    x1, y1 = child.x + _BOX[0], child.y + _BOX[1] / 2
    x2, y2 = parent.x, parent.y + _BOX[1] / 2
    middle = (x1 + x2) / 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"


def _find(session: Session, caller: Caller, reference: Reference, digest: str) -> VersionRow | None:
    if reference.hub is not None:
        return None
    return session.scalar(
        select(VersionRow)
        .join(RepoRow, RepoRow.id == VersionRow.repo_id)
        .where(
            RepoRow.namespace == reference.namespace,
            RepoRow.name == reference.name,
            visible(caller),
            VersionRow.digest == bare_digest(digest),
        )
        .options(joinedload(VersionRow.repo))
    )
