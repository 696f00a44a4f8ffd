"""What clients may name as a model, and what that means at the moment a request is admitted.

The base's name means the base alone; `namespace/name[@revision]` an adapter of the hub, resolved here to one version; a name
that an administrator loaded a folder under, that folder; and an expression a sum of such. From then on the request knows
digests: an alias that moves meanwhile changes nothing for it. What a caller may not use is not there for it.

Does not run anything, and knows no HTTP. Called on the event loop; the hub and the disk are read on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from adapthub.adapters.errors import AdapterNotFound, InvalidReference
from adapthub.adapters.expression import Term, parse_expression
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Entry, Registry, Version
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.tenants.caller import Caller

# Seconds for which a reference means what it meant: moves made elsewhere are seen after that, those made here at once.
_FRESH = 1.0
_KNOWN = 4096  # versions that stay registered though nobody asks for them


@dataclass(frozen=True)
class Target:
    """What one request runs on. `model`: as it was asked for. `adapter`: the same for Runtime, every name with its digest;
    None for the base alone. `label`: the same for people, every name with its version ("acme/sql@v3"); "" for the base."""

    model: str
    adapter: str | None
    label: str


class Catalog:
    """The models of one server: `base_name`, and the adapters of `hub` that match a pattern of `served`."""

    def __init__(self, runtime: Runtime, hub: Registry, base_name: str, served: Sequence[str]) -> None:
        self._runtime = runtime
        self._hub = hub
        self.base_name = base_name
        self._served = tuple(served)
        self._folders: dict[str, str] = {}  # names that an administrator loaded, and their digests
        self._resolved: dict[Reference, tuple[float, Version]] = {}
        # Names with digests, registered, and what they are for people; the last used last.
        self._known: OrderedDict[str, str] = OrderedDict()
        self._registering: dict[str, asyncio.Task[str]] = {}

    async def find(self, model: str, caller: Caller) -> Target:
        """What `model` means now for `caller`, its adapters registered.

        Raises AdapterNotFound for what is not there or not for this caller, RevisionNotFound, InvalidExpression, and what
        pulling and reading raise.
        """
        if model == self.base_name:
            return Target(model, None, "")
        terms = parse_expression(model).terms
        found = [await self._find(term.name, caller) for term in terms]
        return Target(
            model,
            _sum(terms, [name for name, _ in found]),
            _sum(terms, [label for _, label in found]),
        )

    async def entries(self, caller: Caller) -> list[Entry]:
        """The adapters of the hub that are served, fit the base as far as is known, and are there for `caller`, by name."""
        entries = await asyncio.to_thread(self._hub.list)
        fingerprint = self._runtime.base.fingerprint.digest
        return [
            entry
            for entry in entries
            if self._serves(entry.name)
            and caller.may_use(entry.name)
            and entry.facts.base_fingerprint in (None, fingerprint)
        ]

    @property
    def folders(self) -> dict[str, str]:
        """Names that an administrator loaded a folder under, and the digests that they mean."""
        return dict(self._folders)

    async def load_folder(self, name: str, path: Path) -> str:
        """Let `name` mean the adapter in a folder of this machine; returns its digest. For administrators.

        Raises what reading and binding raise; then the name means what it meant.
        """
        digest = await asyncio.to_thread(self._runtime.attach, path)
        self._folders[name] = str(path)
        return digest

    async def unload_folder(self, name: str) -> None:
        """Raises AdapterNotFound for a name that no folder was loaded under."""
        if name not in self._folders:
            raise AdapterNotFound(f"{name} is not loaded")
        path = self._folders.pop(name)
        if path not in self._folders.values():
            await asyncio.to_thread(self._runtime.detach, path)

    @property
    def labels(self) -> Mapping[str, list[str]]:
        """What each registered digest is called, by people and clients."""
        labels: defaultdict[str, list[str]] = defaultdict(list)
        meanings = self._runtime.attached
        known = ((label, name) for name, label in self._known.items())
        for label, adapter in (*self._folders.items(), *known):
            if adapter in meanings:
                labels[meanings[adapter]].append(label)
        return labels

    def forget_resolved(self) -> None:
        """An alias moved: ask the hub again."""
        self._resolved.clear()

    async def resolve(self, reference: Reference) -> Version:
        """The version that a reference means now. Raises what the hub raises."""
        now = time.monotonic()
        found = self._resolved.get(reference)
        if found is not None and now - found[0] < _FRESH:
            return found[1]
        version = await asyncio.to_thread(self._hub.resolve, reference)
        if len(self._resolved) >= _KNOWN:
            self._resolved.clear()
        self._resolved[reference] = now, version
        return version

    async def _find(self, name: str, caller: Caller) -> tuple[str, str]:
        """One name as Runtime takes it, and for people."""
        if name in self._folders and caller.may_use(name):
            return self._folders[name], name
        try:
            reference = Reference.parse(name)
        except InvalidReference:
            raise self._absent(name) from None
        full = f"{reference.namespace}/{reference.name}"
        if reference.hub is not None or not self._serves(full) or not caller.may_use(full):
            raise self._absent(name)
        version = await self.resolve(reference)
        pinned = f"{full}@{version.digest.removeprefix('sha256:')}"
        label = f"{full}@v{version.number}"
        await self._register(pinned, label)
        return pinned, label

    async def _register(self, pinned: str, label: str) -> None:
        """Make one version known to the runtime, once however many ask; those that nobody asked for longest go."""
        if pinned in self._known:
            self._known.move_to_end(pinned)
            return
        task = self._registering.get(pinned)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._runtime.register, pinned))
            self._registering[pinned] = task
            task.add_done_callback(lambda _: self._registering.pop(pinned, None))
        await asyncio.shield(task)
        self._known[pinned] = label
        while len(self._known) > _KNOWN:
            oldest, _ = self._known.popitem(last=False)
            await asyncio.to_thread(self._runtime.detach, oldest)

    def _serves(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._served)

    def _absent(self, name: str) -> AdapterNotFound:
        return AdapterNotFound(
            f"the model {name!r} does not exist",
            hint=f"GET /v1/models lists what there is; the base is {self.base_name!r}.",
        )


def _sum(terms: Sequence[Term], names: Sequence[str]) -> str:
    """`terms` with other names, weights to the last digit."""
    if len(terms) == 1 and terms[0].weight == 1:
        return names[0]
    return " + ".join(f"{term.weight!r}*{name}" for term, name in zip(terms, names, strict=True))
