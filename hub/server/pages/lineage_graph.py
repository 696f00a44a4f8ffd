"""A lineage as a graph to draw: the version itself, to its right a column for each step back to what it comes from, to its
left one for each step on to what came of it. So every line leads from a child to the right, to a parent.

Draws nothing, and asks nothing of the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from adapthub.hub.registry import Ancestor, Lineage

MOST = 40
"""How many versions are drawn on each side; that there are more is said."""

_BOX = (176.0, 40.0)
_GAP = (40.0, 16.0)
_LETTERS = 22  # that a box has room for


@dataclass(frozen=True)
class Node:
    """A version in a box whose upper left corner is at `x`, `y`. `label` fits the box; `title` is the whole of it; `own`: it
    is the version whose lineage this is."""

    x: float
    y: float
    label: str
    title: str
    name: str
    digest: str
    number: int | None
    found: bool
    own: bool


@dataclass(frozen=True)
class Graph:
    """Boxes, from left to right, and the lines between them, in a view box of `width` and `height`. `unpinned`: parents that
    name no version."""

    width: float
    height: float
    box: tuple[float, float]
    nodes: tuple[Node, ...]
    lines: tuple[str, ...]
    unpinned: tuple[str, ...]
    cut: bool


def draw(lineage: Lineage) -> Graph:
    """Where the boxes of `lineage` lie, and the lines from children to parents."""
    before = dict(islice(lineage.versions.items(), MOST + 1))  # itself, and what it comes from
    after = dict(islice(lineage.descendants.items(), MOST))
    shown = {**after, **before}
    columns = _columns(lineage.root, before, after)
    nodes = _nodes(lineage.root, shown, columns)
    lines = tuple(
        _line(nodes[digest], nodes[parent])
        for digest, one in shown.items()
        for parent in one.parents
        if parent in nodes
    )
    return Graph(
        width=max(node.x for node in nodes.values()) + _BOX[0] + 1,
        height=max(node.y for node in nodes.values()) + _BOX[1] + 1,
        box=_BOX,
        nodes=tuple(nodes.values()),
        lines=lines,
        unpinned=lineage.unpinned,
        cut=lineage.cut or len(shown) < len({*lineage.versions, *lineage.descendants}),
    )


def _columns(root: str, before: Mapping[str, Ancestor], after: Mapping[str, Ancestor]) -> dict[str, int]:
    """The column of each version, counted from the leftmost."""
    parents = {digest: one.parents for digest, one in before.items()}
    children: dict[str, list[str]] = {root: [], **{digest: [] for digest in after}}
    for digest, one in after.items():
        for parent in one.parents:
            if parent in children:
                children[parent].append(digest)
    left = _steps(children)
    place = {digest: -step for digest, step in left.items()} | _steps(parents)
    first = min(place.values())
    return {digest: column - first for digest, column in place.items()}


def _steps(following: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many steps away each is from where the ways begin, by the longest way."""
    steps = dict.fromkeys(following, 0)
    for _ in range(len(steps)):  # a digest cannot be its own ancestor's, but who knows
        moved = False
        for digest, others in following.items():
            for other in others:
                if other in steps and steps[other] <= steps[digest] < len(steps):
                    steps[other] = steps[digest] + 1
                    moved = True
        if not moved:
            break
    return steps


def _nodes(root: str, shown: Mapping[str, Ancestor], columns: Mapping[str, int]) -> dict[str, Node]:
    """The boxes, column by column, each column in the middle of the height."""
    by_column: dict[int, list[str]] = {}
    for digest in shown:
        by_column.setdefault(columns[digest], []).append(digest)
    most = max(len(column) for column in by_column.values())
    return {
        digest: _node(shown[digest], column, row + (most - len(digests)) / 2, own=digest == root)
        for column, digests in sorted(by_column.items())
        for row, digest in enumerate(digests)
    }


def _node(version: Ancestor, column: int, row: float, *, own: bool) -> Node:
    title = version.name + (f"@v{version.number}" if version.number is not None else "")
    return Node(
        x=1 + column * (_BOX[0] + _GAP[0]),
        y=1 + row * (_BOX[1] + _GAP[1]),
        label=title if len(title) <= _LETTERS else f"{title[: _LETTERS - 1]}…",
        title=title,
        name=version.name,
        digest=version.digest,
        number=version.number,
        found=version.found,
        own=own,
    )


def _line(child: Node, parent: Node) -> str:
    x1, y1 = child.x + _BOX[0], child.y + _BOX[1] / 2
    x2, y2 = parent.x, parent.y + _BOX[1] / 2
    middle = (x1 + x2) / 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
