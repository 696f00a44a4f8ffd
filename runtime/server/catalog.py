"""What clients may name as a model, and what that means at the moment a request is admitted.

The base's name means the base alone; `namespace/name[@revision]` an adapter of the hub, resolved here to one version; a name
that an administrator loaded an adapter under, that adapter; and an expression a sum of such. From then on the request knows
digests: an alias that moves meanwhile changes nothing for it. What a caller may not use is not there for it. Where an alias
has a release, it is decided here whether the request runs on the candidate.

Does not run anything, and knows no HTTP. Called on the event loop; the hub and the disk are read on threads.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from uuid import uuid4

from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    Conflict,
    InvalidInput,
    InvalidReference,
)
from adapthub.adapters.expression import Term, parse_expression
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Entry, Registry, Version
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.server.releases import Release, Releases
from adapthub.runtime.tenants.caller import LOCAL, Caller

_LOG = logging.getLogger(__name__)

# Seconds for which a reference means what it meant: moves made elsewhere are seen after that, those made here at once.
_FRESH = 1.0
_KNOWN = 4096  # versions that stay registered though nobody asks for them
_NAME = re.compile(r"\w[\w.-]{0,94}(/\w[\w.-]{0,94})?", re.ASCII)


@dataclass(frozen=True)
class Target:
    """What one request runs on. `model`: as it was asked for. `adapter`: the same for Runtime, every name with its digest;
    None for the base alone. `label`: the same for people, every name with its version ("acme/sql@v3"); "" for the base.
    `release`: the release whose candidate this is; `shadow`: the candidate that answers too, unheard."""

    model: str
    adapter: str | None
    label: str
    release: str | None = None
    shadow: Target | None = None


class Catalog:
    """The models of one server: `base_name`, and the adapters of `hub` that match a pattern of `served`."""

    def __init__(
        self,
        runtime: Runtime,
        hub: Registry,
        base_name: str,
        served: Sequence[str],
        releases: Releases | None = None,
    ) -> None:
        self.releases = releases or Releases()
        self._runtime = runtime
        self._hub = hub
        self.base_name = base_name
        self._served = tuple(served)
        self._folders: dict[str, str] = {}  # names that an administrator loaded, and what of
        self._resolved: dict[Reference, tuple[float, Version]] = {}
        # Names with digests that are registered, and their labels; the last used last.
        self._known: OrderedDict[str, str] = OrderedDict()
        self._moves = 0  # of aliases, through this server
        self._registering: dict[str, asyncio.Task[str]] = {}

    async def find(self, model: str, caller: Caller, user: str | None = None) -> Target:
        """What `model` means now for `caller`, its adapters registered. `user`: whom the client asks for; one user of a
        tenant stays on one side of a canary, and None is another user every time.

        Raises AdapterNotFound for what is not there or not for this caller, RevisionNotFound, InvalidExpression, and what
        pulling and reading raise.
        """
        if model == self.base_name:
            return Target(model, None, "")
        terms = parse_expression(model).terms
        target = _target(model, terms, [await self._find(term.name, caller) for term in terms])
        release = self._release_of(model)
        if release is None or release.label == target.label:
            return target
        return await self._released(target, release, f"{caller.tenant}\0{user or uuid4().hex}")

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
    def folders(self) -> Mapping[str, str]:
        """Names that an administrator loaded an adapter under, and what they mean: a folder, or a name with a digest."""
        return dict(self._folders)

    @property
    def labels(self) -> Mapping[str, list[str]]:
        """What each registered digest is called, by people and clients."""
        labels: defaultdict[str, list[str]] = defaultdict(list)
        meanings = self._runtime.attached
        for name, adapter in (
            *self._folders.items(),
            *((label, known) for known, label in self._known.items()),
        ):
            if adapter in meanings:
                labels[meanings[adapter]].append(name)
        return labels

    async def preload(self) -> None:
        """Attach every served name without a wildcard. Raises what finding and attaching it raise."""
        for name in self._served:
            if not _is_pattern(name):
                await self.load(name)

    async def load(self, model: str) -> Target:
        """Put what `model` means now into slots. For administrators; raises what finding and attaching raise."""
        target = await self._current(model)
        for term in parse_expression(target.adapter or "").terms:
            await asyncio.to_thread(self._runtime.attach, term.name)
        return target

    async def unload(self, model: str) -> Target:
        """Forget what `model` means now, once nothing runs on it; what the hub has is loaded again when somebody asks for
        it. Raises AdapterNotFound for what is not registered.
        """
        if model in self._folders:
            await self.unload_as(model)
            return Target(model, None, model)
        target, names = await self._registered(model)
        for name in names:
            self._known.pop(name, None)
            await asyncio.to_thread(self._runtime.detach, name)
        return target

    async def pin(self, model: str) -> Target:
        """Load what `model` means now, and keep it in its slot. Raises what loading raises, and OutOfMemory."""
        target = await self.load(model)
        for term in parse_expression(target.adapter or "").terms:
            await asyncio.to_thread(self._runtime.pin, term.name)
        return target

    async def unpin(self, model: str) -> Target:
        """Let it be evicted again. Raises AdapterNotFound for what is not registered."""
        target, names = await self._registered(model)
        for name in names:
            self._runtime.unpin(name)
        return target

    async def load_as(self, name: str, source: str, *, again: bool = False) -> str:
        """Let `name` mean the adapter in a folder of this machine or the version that a reference means now; returns its
        digest. For administrators. `again`: also where the name means an adapter already.

        Raises InvalidInput for a name that is none, Conflict for one that is taken, and what pulling, reading and binding
        raise; then the name means what it meant.
        """
        await self._check_free(name, again=again)
        if not await asyncio.to_thread(Path(source).is_dir):
            if source.startswith(("/", ".", "~")):
                raise AdapterNotFound(f"no adapter folder at {source}")
            source = (await self._current(source)).adapter or ""
        elif re.search(r"[\s*]", source):
            raise InvalidInput(
                f"{source!r} has white space or a '*' in it", hint="Load it from another path."
            )
        digest = await asyncio.to_thread(self._runtime.attach, source)
        self._folders[name] = source
        return digest

    async def unload_as(self, name: str) -> None:
        """Raises AdapterNotFound for a name that nothing was loaded under."""
        if name not in self._folders:
            raise AdapterNotFound(f"{name} is not loaded")
        source = self._folders.pop(name)
        if source not in self._folders.values() and source in self._runtime.attached:
            self._known.pop(source, None)
            await asyncio.to_thread(self._runtime.detach, source)

    def forget_resolved(self) -> None:
        """An alias moved: ask the hub again."""
        self._moves += 1
        self._resolved.clear()

    async def resolve(self, reference: Reference) -> Version:
        """The version that a reference means now. Raises what the hub raises."""
        now = time.monotonic()
        found = self._resolved.get(reference)
        if found is not None and now - found[0] < _FRESH:
            return found[1]
        moves = self._moves
        version = await asyncio.to_thread(self._hub.resolve, reference)
        if moves != self._moves:  # what the hub said may be from before
            return version
        if len(self._resolved) >= _KNOWN:
            self._resolved.clear()
        self._resolved[reference] = now, version
        return version

    async def _find(self, name: str, caller: Caller, *, register: bool = True) -> tuple[str, str]:
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
        try:
            version = await self.resolve(reference)
        except AdapterNotFound:  # the hub suggests near names, perhaps of others
            raise self._absent(name) from None
        if register:
            await self._register(version)
        return _pinned(version), _label(version)

    async def _current(self, model: str, *, register: bool = True) -> Target:
        """What `model` means now whatever is released. Raises InvalidInput for the base."""
        if model == self.base_name:
            raise InvalidInput(f"{model} is the base model, which is always loaded")
        terms = parse_expression(model).terms
        return _target(
            model, terms, [await self._find(term.name, LOCAL, register=register) for term in terms]
        )

    async def _registered(self, model: str) -> tuple[Target, list[str]]:
        """What `model` means now, and each of its adapters. Raises AdapterNotFound where one is not registered."""
        target = await self._current(model, register=False)
        names = [term.name for term in parse_expression(target.adapter or "").terms]
        attached = self._runtime.attached
        if any(name not in attached for name in names):
            raise AdapterNotFound(f"{model} is not loaded", hint="GET /admin/adapters lists what is.")
        return target, names

    def _release_of(self, model: str) -> Release | None:
        """The release that takes part in requests for `model`: of an alias that is named alone."""
        try:
            reference = Reference.parse(model)
        except InvalidReference:
            return None
        return self.releases.running(reference.full_name, reference.revision)

    async def _released(self, target: Target, release: Release, key: str) -> Target:
        """`target` or the candidate; `target` all the same where the candidate is not to be had."""
        if not release.takes(key):
            return target
        try:
            candidate = await self.resolve(Reference.parse(f"{release.name}@{release.digest}"))
            await self._register(candidate)
        except AdaptHubError as error:
            _LOG.warning("the candidate of release %s cannot be had: %s", release.id, error)
            return target
        released = Target(target.model, _pinned(candidate), _label(candidate), release=release.id)
        return released if release.kind == "canary" else replace(target, shadow=released)

    async def _register(self, version: Version) -> None:
        """Make one version known to the runtime, once however many ask; those that nobody asked for longest go."""
        pinned = _pinned(version)
        if pinned in self._known:
            self._known.move_to_end(pinned)
            return
        task = self._registering.get(pinned)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._runtime.register, pinned))
            self._registering[pinned] = task
            task.add_done_callback(lambda _: self._registering.pop(pinned, None))
        await asyncio.shield(task)
        self._known[pinned] = _label(version)
        while len(self._known) > _KNOWN:
            oldest, _ = self._known.popitem(last=False)
            await asyncio.to_thread(self._runtime.detach, oldest)

    async def _check_free(self, name: str, *, again: bool) -> None:
        """Raise what keeps an administrator from giving an adapter this name."""
        if not _NAME.fullmatch(name) or ".." in name:
            raise InvalidInput(
                f"{name!r:.120} is not a name for a model",
                hint="Use letters, digits, '.', '_' and '-', and at most one '/' between.",
            )
        if name == self.base_name:
            raise Conflict(f"{name} is the base model's name")
        if name in self._folders and not again:
            raise Conflict(
                f"the adapter {name} has already been loaded", hint="Unload it, or load it in place."
            )
        if "/" in name and not await asyncio.to_thread(self._hub.available, name):
            raise Conflict(f"{name} is an adapter of the hub", hint="Load it under another name.")

    def _serves(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern.partition("@")[0]) for pattern in self._served)

    def _absent(self, name: str) -> AdapterNotFound:
        return AdapterNotFound(
            f"the model {name!r} does not exist",
            hint=f"GET /v1/models lists what there is; the base is {self.base_name!r}.",
        )


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _pinned(version: Version) -> str:
    """One version as Runtime takes it."""
    return f"{version.name}@{version.digest.removeprefix('sha256:')}"


def _label(version: Version) -> str:
    return f"{version.name}@v{version.number}"


def _target(model: str, terms: Sequence[Term], found: Sequence[tuple[str, str]]) -> Target:
    """The sum of what was found for each term."""
    names, labels = ([pair[side] for pair in found] for side in (0, 1))
    return Target(model, _sum(terms, names), _sum(terms, labels))


def _sum(terms: Sequence[Term], names: Sequence[str]) -> str:
    """`terms` with other names, weights to the last digit."""
    if len(terms) == 1 and terms[0].weight == 1:
        return names[0]
    return " + ".join(f"{term.weight!r}*{name}" for term, name in zip(terms, names, strict=True))
