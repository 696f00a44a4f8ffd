"""What clients may name as a model, and what that means at the moment a request is admitted.

The base's name means the base alone; `namespace/name[@revision]` an adapter of the hub, resolved here to one version; a name
that an administrator loaded an adapter under, that adapter; and an expression a sum of such. From then on the request knows
digests: an alias that moves or a folder that is replaced meanwhile changes nothing for it. What a caller may not use is not
there for it. Where an alias has a release, it is decided here whether the request runs on the candidate.

Does not run anything, and knows no HTTP. Called on the event loop; the hub and the disk are read on threads.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from uuid import uuid4

from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    Conflict,
    InvalidExpression,
    InvalidInput,
    InvalidReference,
)
from adapthub.adapters.expression import Term, parse_expression
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Entry, Registry, Version
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.server.pulls import Pulls
from adapthub.runtime.server.releases import Release, Releases
from adapthub.runtime.server.resolving import Resolver
from adapthub.runtime.tenants.caller import LOCAL, Caller

_LOG = logging.getLogger(__name__)

_KNOWN = 4096  # versions that stay registered though nobody asks for them
NO_USER = ""  # of whom a request says nothing, where all of these are to stay on one side of a canary
_NAME = re.compile(r"\w[\w.-]{0,94}(/\w[\w.-]{0,94})?", re.ASCII)


@dataclass(frozen=True)
class Target:
    """What one request runs on. `model`: as it was asked for. `adapter`: the same for Runtime, a digest for every name; None
    for the base alone. `label`: the same for people, every name with its version ("acme/sql@v3"); "" for the base.
    `release`: the release whose candidate this is; `shadow`: the candidate that answers too, unheard."""

    model: str
    adapter: str | None
    label: str
    release: str | None = None
    shadow: Target | None = None


@dataclass(frozen=True)
class _Found:
    """What one name means. `source`: what Runtime registers it by, a folder or a name with a digest; `label`: for people;
    `created`: see check."""

    source: str
    digest: str
    label: str
    created: datetime | None


class Catalog:
    """The models of one server: the base, and the adapters of `hub` that match a pattern of `served`, whatever revision that
    names.

    `base`: what the base was loaded from. Clients may name it so, or as they are told, by `base_name`: of a folder of this
    machine its last part alone.
    """

    def __init__(
        self,
        runtime: Runtime,
        hub: Registry,
        base: str,
        served: Sequence[str],
        releases: Releases | None = None,
    ) -> None:
        self.releases = releases or Releases()
        self._runtime = runtime
        self._hub = hub
        self._resolver = Resolver(hub)
        self.base_name = Path(base).resolve().name if Path(base).is_dir() else base
        self._base_names = (self.base_name, base)
        self._served = tuple(served)
        self._folders: dict[str, str] = {}  # names that an administrator loaded, and what of
        self._contents: dict[str, str] = {}  # the digest of each of those sources
        self._known: OrderedDict[str, Version] = OrderedDict()  # by source, the last used last
        self._kept: set[str] = set()  # digests that were pinned, or loaded at the start
        self._pulls = Pulls()

    def is_base(self, model: str) -> bool:
        """Whether a name means the base alone."""
        return model in self._base_names

    async def find(self, model: str, caller: Caller, user: str | None = None) -> Target:
        """What `model` means now for `caller`, its adapters registered. `user`: whom the client asks for; one user of a
        tenant stays on one side of a canary, as do all of NO_USER; None is another user every time.

        Raises AdapterNotFound for what is not there or not for this caller, RevisionNotFound, InvalidExpression, and what
        pulling and reading raise.
        """
        if self.is_base(model):
            return Target(model, None, "")
        terms = parse_expression(model).terms
        target = _target(model, terms, [await self._find(term.name, caller) for term in terms])
        release = self._release_of(model)
        if release is None or release.label == target.label:
            return target
        key = f"{caller.tenant}\0{uuid4().hex if user is None else user}"
        return await self._released(target, release, key, caller.tenant)

    @asynccontextmanager
    async def admitted(self, model: str, caller: Caller, user: str | None = None) -> AsyncIterator[Target]:
        """The same; within, its adapters stay registered, whatever an administrator unloads or replaces meanwhile."""
        target = await self.find(model, caller, user)
        with self._runtime.keeping(target.adapter):
            yield target

    async def check(self, model: str, caller: Caller) -> datetime | None:
        """Raise what finding `model` raises where it is not there for `caller`; registers nothing. When it was published, or
        made where no hub knows it, of a sum the newest part; None where nothing says so, as of the base."""
        terms = () if self.is_base(model) else parse_expression(model).terms
        found = [(await self._find(term.name, caller, register=False)).created for term in terms]
        return max(filter(None, found), default=None)

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
    def folders(self) -> Mapping[str, datetime | None]:
        """Names that an administrator loaded an adapter under, and when that was made; None where it does not say."""
        return {name: self._runtime.created(self._contents[at]) for name, at in self._folders.items()}

    @property
    def labels(self) -> Mapping[str, list[str]]:
        """What each registered digest is called, by people and clients."""
        labels: defaultdict[str, list[str]] = defaultdict(list)
        meanings = self._runtime.attached
        known = ((_label(version), source) for source, version in self._known.items())
        for name, adapter in (*self._folders.items(), *known):
            if adapter in meanings:
                labels[meanings[adapter]].append(name)
        return labels

    async def preload(self) -> None:
        """Attach every served name without a wildcard. Raises what finding and attaching it raise."""
        for name in self._served:
            if not _is_pattern(name):
                self._kept.update(_digests(await self.load(name)))

    async def load(self, model: str) -> Target:
        """Put what `model` means now into slots. For administrators; raises what finding and attaching raise."""
        target, _ = await self._current(model)
        for digest in _digests(target):
            await asyncio.to_thread(self._runtime.attach, digest)
        return target

    async def unload(self, model: str) -> Target:
        """Forget what `model` means now, once nothing runs on it; what the hub has is loaded again when somebody asks for
        it. Raises AdapterNotFound for what is not registered, and Conflict for what another loaded name means.
        """
        if model in self._folders:
            await self.unload_as(model)
            return Target(model, None, model)
        target, found = await self._registered(model)
        for one in found:
            if name := next((name for name, source in self._folders.items() if source == one.source), None):
                raise Conflict(f"{one.label} is loaded as {name}", hint=f"Unload {name} first.")
        for one in found:
            self._forget(one.source, one.digest)
        return target

    async def pin(self, model: str) -> Target:
        """Load what `model` means now, and keep it in its slot. Raises what loading raises, and OutOfMemory."""
        target = await self.load(model)
        for digest in _digests(target):
            await asyncio.to_thread(self._runtime.pin, digest)
            self._kept.add(digest)
        return target

    async def unpin(self, model: str) -> Target:
        """Let it be evicted again. Raises AdapterNotFound for what is not registered."""
        target, found = await self._registered(model)
        for one in found:
            self._runtime.unpin(one.digest)
            self._kept.discard(one.digest)
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
            _, found = await self._current(source)
            if len(found) > 1:
                raise InvalidInput(f"{source!r:.120} is a sum", hint="Load one adapter under a name.")
            source = found[0].source
        elif re.search(r"[\s*]", source):
            raise InvalidInput(
                f"{source!r} has white space or a '*' in it", hint="Load it from another path."
            )
        digest = await asyncio.to_thread(self._runtime.attach, source)
        while source not in self._runtime.attached:  # another name of it was unloaded meanwhile
            digest = await asyncio.to_thread(self._runtime.attach, source)
        before = self._folders.get(name, source)
        self._folders[name], self._contents[source] = source, digest
        self._leave(before)
        return digest

    async def unload_as(self, name: str) -> None:
        """Raises AdapterNotFound for a name that nothing was loaded under."""
        if name not in self._folders:
            raise AdapterNotFound(f"{name} is not loaded")
        self._leave(self._folders.pop(name))

    def forget_resolved(self) -> None:
        """An alias moved: ask the hub again."""
        self._resolver.forget_aliases()

    async def resolve(self, reference: Reference, *, fresh: bool = False) -> Version:
        """The version that a reference means, as it was within the last second or, `fresh`, now. Raises what the hub
        raises."""
        return await self._resolver.resolve(reference, fresh=fresh)

    async def _find(self, name: str, caller: Caller, *, register: bool = True, fresh: bool = False) -> _Found:
        if name in self._folders and caller.may_use(name):
            source = self._folders[name]
            digest = self._contents[source]
            return _Found(source, digest, name, self._runtime.created(digest))
        try:
            reference = Reference.parse(name)
        except InvalidReference:
            raise self._absent(name) from None
        full = f"{reference.namespace}/{reference.name}"
        if reference.hub is not None or not self._serves(full) or not caller.may_use(full):
            raise self._absent(name)
        try:
            version = await self.resolve(reference, fresh=fresh)
        except AdapterNotFound:  # the hub suggests near names, perhaps of others
            raise self._absent(name) from None
        if register:
            await self._register(version, caller.tenant)
        return _Found(_pinned(version), version.digest, _label(version), version.created)

    async def _current(self, model: str, *, register: bool = True) -> tuple[Target, list[_Found]]:
        """What `model` and its names mean now, whatever is released. Raises InvalidInput for the base."""
        if self.is_base(model):
            raise InvalidInput(f"{model} is the base model, which is always loaded")
        terms = parse_expression(model).terms
        found = [await self._find(term.name, LOCAL, register=register, fresh=True) for term in terms]
        return _target(model, terms, found), found

    async def _registered(self, model: str) -> tuple[Target, list[_Found]]:
        """The same. Raises AdapterNotFound where an adapter is not registered; no other task has run since it was seen."""
        target, found = await self._current(model, register=False)
        await self._pulls.ended([one.source for one in found])
        attached = self._runtime.attached
        if any(one.source not in attached for one in found):
            raise AdapterNotFound(f"{model} is not loaded", hint="GET /admin/adapters lists what is.")
        return target, found

    def _release_of(self, model: str) -> Release | None:
        """The release that takes part in requests for `model`: of an alias that is named alone."""
        try:
            reference = Reference.parse(model)
        except InvalidReference:
            return None
        return self.releases.running(reference.full_name, reference.revision)

    async def _released(self, target: Target, release: Release, key: str, tenant: str) -> Target:
        """`target` or the candidate; `target` all the same where the candidate is not to be had."""
        if not release.takes(key):
            return target
        try:
            candidate = await self.resolve(Reference.parse(f"{release.name}@{release.digest}"))
            await self._register(candidate, tenant)
        except AdaptHubError as error:
            _LOG.warning("the candidate of release %s cannot be had: %s", release.id, error)
            return target
        released = Target(target.model, candidate.digest, _label(candidate), release=release.id)
        return released if release.kind == "canary" else replace(target, shadow=released)

    async def _register(self, version: Version, tenant: str) -> None:
        """Make one version known to the runtime, once however many ask."""
        source = _pinned(version)
        if source in self._known:
            self._known.move_to_end(source)
        else:
            await self._pulls.once(tenant, source, lambda: self._make_known(source, version))

    async def _make_known(self, source: str, version: Version) -> None:
        """Those that nobody asked for longest go, but not what an administrator wants to stay."""
        if source in self._known:  # another tenant was faster
            return
        await asyncio.to_thread(self._runtime.register, source)
        self._known[source] = version
        wanted = self._kept.union(self._contents.values())
        unwanted = (old for old, known in self._known.items() if known.digest not in wanted and old != source)
        for oldest in [*islice(unwanted, max(0, len(self._known) - _KNOWN))]:
            self._forget(oldest, self._known[oldest].digest)

    def _leave(self, source: str) -> None:
        """A loaded name means something else now: forget its source unless another means it."""
        if source not in self._folders.values():
            self._forget(source, self._contents.pop(source))

    def _forget(self, source: str, digest: str) -> None:
        """On the event loop, so that nothing is registered meanwhile; it takes no time."""
        self._known.pop(source, None)
        self._kept.discard(digest)
        if source in self._runtime.attached:
            self._runtime.detach(source)

    async def _check_free(self, name: str, *, again: bool) -> None:
        """Raise what keeps an administrator from giving an adapter this name."""
        if not _NAME.fullmatch(name) or ".." in name:
            raise InvalidInput(
                f"{name!r:.120} is not a name for a model",
                hint="Use letters, digits, '.', '_' and '-', and at most one '/' between.",
            )
        if self.is_base(name):
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


def _target(model: str, terms: Sequence[Term], found: Sequence[_Found]) -> Target:
    """The sum of what was found for each term. Raises InvalidExpression where two are the same adapter."""
    digests = [one.digest for one in found]
    for term, digest in zip(terms, digests, strict=True):
        if digests.count(digest) > 1:
            raise InvalidExpression(
                f"{term.name!r:.120} and another name mean the same adapter", hint="Add their weights up."
            )
    return Target(model, _sum(terms, digests), _sum(terms, [one.label for one in found]))


def _digests(target: Target) -> list[str]:
    return [term.name for term in parse_expression(target.adapter or "").terms]


def _sum(terms: Sequence[Term], names: Sequence[str]) -> str:
    """`terms` with other names, weights to the last digit."""
    if len(terms) == 1 and terms[0].weight == 1:
        return names[0]
    return " + ".join(f"{term.weight!r}*{name}" for term, name in zip(terms, names, strict=True))
