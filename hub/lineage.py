"""Where a version comes from, and what came of it: the graph that the manifests' `parents` make.

A parent is written pinned, `namespace/name@<64 hex digits>`, by `parent_of`: a name to find it by, and its digest.
What a registry does not have stays in the graph, marked as not found. Trusts nothing: the digest that a registry answers
with must be the one that was written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from adapthub.adapters.errors import InvalidReference, NotFound
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Ancestor, Lineage

if TYPE_CHECKING:
    from adapthub.hub.registry import Details, Registry, Version

MAX_VERSIONS = 1_000
"""How many versions one answer names; a graph beyond it is cut, and says so."""


def parent_of(version: Version) -> str:
    """How a manifest names this version as a parent."""
    return f"{version.name}@{version.digest.removeprefix('sha256:')}"


class Shows(Protocol):
    """What of a registry lineage needs."""

    def show(self, ref: Reference, /) -> Details: ...


def ancestors(registry: Shows, ref: str | Reference) -> Lineage:
    """The version `ref` and everything that it comes from, as far as `registry` knows.

    Raises what `Registry.show` raises for `ref` itself.
    """
    first = registry.show(ref if isinstance(ref, Reference) else Reference.parse(ref))
    found: dict[str, Ancestor] = {}
    unpinned: list[str] = []
    waiting: deque[tuple[str, str, Details | None]] = deque(
        [(first.version.digest, first.version.name, first)]
    )
    while waiting and len(found) < MAX_VERSIONS:
        digest, name, details = waiting.popleft()
        if digest in found:
            continue
        pinned, others = parents_in(details.manifest if details is not None else None)
        unpinned += [text for text in others if text not in unpinned]
        number = None if details is None else details.version.number
        found[digest] = Ancestor(digest, name, number, tuple(pinned), found=details is not None)
        waiting.extend(
            (parent, reference.full_name, _shown(registry, reference))
            for parent, reference in pinned.items()
            if parent not in found
        )
    cut = any(digest not in found for digest, _, _ in waiting)
    return Lineage(first.version.digest, found, tuple(unpinned), cut)


def descendants(edges: Iterable[tuple[str, str]], digest: str) -> tuple[str, ...]:
    """What came of `digest`, nearest first: `edges` are (child, parent) digests, of every version that is known."""
    children: dict[str, list[str]] = {}
    for child, parent in edges:
        children.setdefault(parent, []).append(child)
    found: dict[str, None] = {}
    waiting = deque([digest])
    while waiting:
        for child in children.get(waiting.popleft(), ()):
            if child not in found and child != digest:
                found[child] = None
                waiting.append(child)
    return tuple(found)


def edges_of(registry: Registry) -> tuple[tuple[str, str], ...]:
    """Every (child, parent) that the registry's manifests state. Reads all of them: a hub of many versions keeps these pairs
    in a table instead, from what `parents_in` finds at publish."""
    pairs: dict[tuple[str, str], None] = {}
    for entry in registry.list():
        for number in range(1, entry.versions + 1):
            details = registry.show(f"{entry.name}@v{number}")
            pinned, _ = parents_in(details.manifest)
            pairs.update(dict.fromkeys((details.version.digest, parent) for parent in pinned))
    return tuple(pairs)


def parents_in(manifest: Mapping[str, Any] | None) -> tuple[dict[str, Reference], list[str]]:
    """The pinned parents that a manifest names, by digest, and those that are written in another way."""
    pinned: dict[str, Reference] = {}
    others: list[str] = []
    for text in (manifest or {}).get("parents", ()):
        try:
            reference = Reference.parse(text)
        except InvalidReference:
            others.append(text)
            continue
        commit = reference.commit
        if commit is None or len(commit) != 64:
            others.append(text)
        else:
            pinned[f"sha256:{commit}"] = reference
    return pinned, others


def _shown(registry: Shows, reference: Reference) -> Details | None:
    """What the registry has under a pinned reference; None where it has no such thing, or it is another hub's."""
    if reference.hub is not None:
        return None
    try:
        details = registry.show(reference)
    except NotFound:
        return None
    return details if details.version.digest == f"sha256:{reference.commit}" else None
