"""Versions copied from one hub to another, oldest first, each verified on the way. Knows no transport: two registries do it.

What the target has already is not asked for again. Aliases are not copied: where one points is each hub's own decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from adapthub.adapters.errors import NotFound
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Registry, Version


def mirror(source: Registry, ref: str | Reference, target: Registry, name: str) -> Iterator[Version]:
    """Copy the version that `ref` means, or all versions where it names no revision, to `name` in `target`; each version as
    the target has it, with `repeated` where it was there.

    Raises what the registries do. The versions before an error stay: going on is doing it again.
    """
    reference = ref if isinstance(ref, Reference) else Reference.parse(ref)
    details = source.show(reference)
    wanted = details.versions[::-1] if reference.revision is None else (details.version,)
    there = _versions(target, name)
    for version in wanted:
        if version.digest in there:
            yield replace(there[version.digest], repeated=True)
        else:
            artifact = source.pull(f"{version.name}@{version.digest}")
            yield target.push(artifact, name, message=version.message)


def _versions(target: Registry, name: str) -> dict[str, Version]:
    """The versions of `name` by digest."""
    try:
        return {version.digest: version for version in target.show(name).versions}
    except NotFound:
        return {}
