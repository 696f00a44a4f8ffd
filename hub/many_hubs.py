"""One registry over several hubs: `hf::org/name` is of the hub `hf`, a name without a hub of the one that was opened.

A hub is opened when it is named first. What another than the opened one answers is called by its hub too, so that a
version's name can be asked for again.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from adapthub.adapters.errors import InvalidReference, InvalidSettings
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Details, Entry, Lineage, Registry, Version

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact


class ManyHubs:
    """A `Registry` that is `first` for names without a hub. `open_named` opens another, or raises InvalidSettings."""

    def __init__(self, first: Registry, open_named: Callable[[str], Registry]) -> None:
        self.first = first
        self._open_named = open_named
        self._opened: dict[str, Registry] = {}

    def push(self, artifact: Artifact, name: str, *, message: str = "", alias: str | None = None) -> Version:
        hub, reference = self._find(name)
        return _called(hub.push(artifact, str(_bare(reference)), message=message, alias=alias), reference)

    def resolve(self, ref: str | Reference) -> Version:
        hub, reference = self._find(ref)
        return _called(hub.resolve(_bare(reference)), reference)

    def pull(self, ref: str | Reference) -> Artifact:
        hub, reference = self._find(ref)
        return hub.pull(_bare(reference))

    def list(self, namespace: str | None = None) -> builtins.list[Entry]:
        return self.first.list(namespace)

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        method: str | None = None,
        label: str | None = None,
    ) -> builtins.list[Entry]:
        return self.first.search(text, base=base, task=task, metric=metric, method=method, label=label)

    def show(self, ref: str | Reference) -> Details:
        hub, reference = self._find(ref)
        details = hub.show(_bare(reference))
        return replace(
            details,
            version=_called(details.version, reference),
            versions=tuple(_called(version, reference) for version in details.versions),
        )

    def lineage(self, ref: str | Reference) -> Lineage:
        hub, reference = self._find(ref)
        return hub.lineage(_bare(reference))

    def promote(self, ref: str | Reference, alias: str) -> Version:
        hub, reference = self._find(ref)
        return _called(hub.promote(_bare(reference), alias), reference)

    def attach_signature(self, ref: str | Reference, bundle: bytes) -> Version:
        hub, reference = self._find(ref)
        return _called(hub.attach_signature(_bare(reference), bundle), reference)

    def rollback(self, name: str | Reference, alias: str) -> Version:
        hub, reference = self._find(name)
        return _called(hub.rollback(_bare(reference), alias), reference)

    def available(self, name: str | Reference) -> bool:
        hub, reference = self._find(name)
        return hub.available(_bare(reference))

    def check_may_push(self, name: str | Reference) -> None:
        hub, reference = self._find(name)
        hub.check_may_push(_bare(reference))

    def _find(self, ref: str | Reference) -> tuple[Registry, Reference]:
        reference = ref if isinstance(ref, Reference) else Reference.parse(ref)
        if reference.hub is None:
            return self.first, reference
        if reference.hub not in self._opened:
            try:
                self._opened[reference.hub] = self._open_named(reference.hub)
            except InvalidSettings as error:
                raise InvalidReference(f"{reference}: {error.message}", hint=error.hint) from error
        return self._opened[reference.hub], reference


def _bare(reference: Reference) -> Reference:
    return replace(reference, hub=None)


def _called(version: Version, reference: Reference) -> Version:
    return version if reference.hub is None else replace(version, name=f"{reference.hub}::{version.name}")
