"""The contract of a hub, and the values that it answers with.

Every registry (embedded here; the server and the public Hub speak the same words) keeps the invariants stated
on `Registry`, and runs through one suite of tests. Nothing here stores, transports or prints.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from adapthub.hub.reference import Reference

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of an adapter. `name` is `namespace/name`; `number` counts from 1 within it.

    `digest` is "sha256:<hex>", `created` is in UTC, `size` the sum of its files in bytes. `repeated` is set
    only in the answer to a push: the name already held this very digest, so nothing was added. The number is 0
    where a plain hub counts none: on a branch, and in its lists, where digest and size are empty too.
    """

    name: str
    number: int
    digest: str
    created: datetime
    message: str
    size: int
    repeated: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Metric:
    """A measured number: on which split, over how many rows, and its 95 % interval where one was recorded."""

    split: str
    name: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What an artifact says of itself. None (and no metrics) is: not recorded, as in a plain PEFT folder.

    `base` is the base model's id as trained, `base_fingerprint` the digest of its fingerprint.
    """

    method: str | None
    task: str | None
    labels: tuple[str, ...] | None
    base: str | None
    base_fingerprint: str | None
    rank: int | None
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One move of an alias: when (UTC), from which version number (None: it was new), to which."""

    when: datetime
    source: int | None
    target: int


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for one version, with every move that it made, oldest first."""

    name: str
    number: int
    history: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a version: its path inside the adapter's folder, hex sha256, and size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter in a list: its newest version, what that says of itself, and where its aliases point.

    `facts.metrics` holds one row a metric, from the test split if it was measured there, else validation,
    else another split that is not the training split. `versions` counts them; `aliases` maps an alias to a
    version number.
    """

    latest: Version
    facts: Facts
    versions: int
    aliases: Mapping[str, int]

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return self.latest.name


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether every tensor of a version lands on a module of its base, as was found when it was published.

    `verdict`: "fits", or "unknown" where the hub had no record of the base; what does not fit is never published. `base` is
    the digest of the fingerprint of the base that it was held against, `differences` what of that fingerprint is not as the
    adapter recorded it, in words: then it was trained on another base of the same shapes.
    """

    verdict: Literal["fits", "unknown"]
    base: str | None
    differences: tuple[str, ...]


UNKNOWN = Fit("unknown", None, ())
"""Nobody could say."""


@dataclass(frozen=True, slots=True)
class Details:
    """Everything about one version, and the versions and aliases beside it.

    `facts.metrics` holds every split. `versions` is newest first. `manifest` is `adapthub.json` as stored,
    None where the adapter came without one. `targets` are the ends of the names of the modules that it changes; it and `fit`
    are None where the registry did not look, as for what was published before it could.
    """

    version: Version
    facts: Facts
    versions: tuple[Version, ...]
    aliases: tuple[Alias, ...]
    files: tuple[StoredFile, ...]
    manifest: Mapping[str, Any] | None
    targets: tuple[str, ...] | None = None
    fit: Fit | None = None


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One version of a graph: `name` is `namespace/name` as its child wrote it, `number` its version here.

    `parents` are digests. `found` is False where this registry does not have it: what it comes from is then not known.
    """

    digest: str
    name: str
    number: int | None
    parents: tuple[str, ...]
    found: bool


@dataclass(frozen=True, slots=True)
class Lineage:
    """A version and what it comes from, by digest, nearest first. `unpinned` are parents that name no digest, as they were
    written; `cut`: there is more than one answer names.

    `descendants` are what came of it, nearest first, where the registry knows."""

    root: str
    versions: Mapping[str, Ancestor]
    unpinned: tuple[str, ...]
    cut: bool
    descendants: Mapping[str, Ancestor] = field(default_factory=dict)


class Registry(Protocol):
    """Where adapters live.

    Invariants. A version appears whole or not at all, whatever is killed or fails, and never changes
    afterwards. Numbers count from 1 without gaps, one name at a time, also when several processes push at
    once. A digest names the same bytes everywhere, for ever. An alias points to exactly one version at any
    moment, and each of its moves is recorded with the move. Failed calls change nothing.

    Every method takes references as text or parsed, and raises InvalidReference for one that does not parse,
    AdapterNotFound for an unknown name, RevisionNotFound for an unknown revision (both suggest near ones),
    and StorageError where the disk or the hub refuses.
    """

    def push(self, artifact: Artifact, name: str, *, message: str = "", alias: str | None = None) -> Version:
        """Store `artifact` as the next version of `name`, and point `alias` at it in the same transaction.

        A digest that the name already holds makes no new version: the existing one is returned with
        `repeated` set (and `alias` moved to it); the newest version stays the newest. Raises IntegrityError,
        naming the file, when one that the hub has not got changed since the artifact was read, TensorMismatch, naming the
        tensor, when it is not whole (see `completeness`) or does not land on a base that is known here (`fitting`), and
        Conflict where the name's newest version is known to be for another task.
        """
        ...

    def resolve(self, ref: str | Reference) -> Version:
        """The version that `ref` means now. No revision means the newest version; so do `latest` and `main`.

        Resolve once and go on with the digest: an alias may move at any time. A commit prefix that fits two
        versions raises RevisionNotFound.
        """
        ...

    def pull(self, ref: str | Reference) -> Artifact:
        """The artifact, in a local folder of its own, every byte verified against the digest that `ref`
        resolved to. Its `signature` is the newest that the registry has of it.

        The folder is a cache entry: the next pull reads it, verifies it again, and fetches anew what does not
        match. A reference by full digest that the cache holds needs no registry. Raises IntegrityError,
        naming the file, when neither cache nor registry has the right bytes.
        """
        ...

    def list(self, namespace: str | None = None) -> builtins.list[Entry]:
        """Every adapter, or those of one namespace, by name."""
        ...

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
        """Adapters whose newest version meets every condition given, by name; with `metric`, best first.

        `text`: each word occurs somewhere in the name, task, method, base, labels, message or card, in any
        case. `base`: the base model's id, or its fingerprint's digest or the beginning of it. `task`,
        `method`, `label`: exactly. `metric`: a name, one of >= > <= < ==, and a number, as in "f1>=0.8", held
        against the row that `Entry` shows; raises InvalidSettings when it does not read so.
        """
        ...

    def show(self, ref: str | Reference) -> Details:
        """Everything about the version that `ref` means now."""
        ...

    def lineage(self, ref: str | Reference) -> Lineage:
        """What the version that `ref` means now comes from, and what came of it, as far as this registry knows."""
        ...

    def promote(self, ref: str | Reference, alias: str) -> Version:
        """Point `alias` at the version that `ref` means, and return it. Already there: nothing is recorded.
        Raises Forbidden, naming each, where requirements of its gates do not hold.

        Raises InvalidReference for an alias that reads as a version or commit, or that means the newest
        version.
        """
        ...

    def attach_signature(self, ref: str | Reference, bundle: bytes) -> Version:
        """Let `bundle` be the signature of the version that `ref` means, in place of one that it has, and return the
        version, which stays as it is. Raises SignatureError where it is not over exactly that version's files, Conflict
        where a key that its namespace believes made the one that it has, and none made this one."""
        ...

    def rollback(self, name: str | Reference, alias: str) -> Version:
        """Point `alias` back at what it pointed to before the last promotion, and return that version.

        Each further call goes one promotion further back. Raises RevisionNotFound for an alias that does not
        exist or has nothing to go back to.
        """
        ...

    def available(self, name: str | Reference) -> bool:
        """Whether no adapter has this name yet. A name that is taken can still be pushed to: as its next
        version."""
        ...

    def check_may_push(self, name: str | Reference) -> None:
        """Raises Unauthorized or Forbidden, or AdapterNotFound for a name that is hidden from them, where whoever asks may
        not push this name, as far as that is known before the bytes are there. Changes nothing."""
        ...
