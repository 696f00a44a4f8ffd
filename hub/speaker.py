"""What a remote registry asks of the hub at its other end, whichever kind of hub that is. `Registry` says what it means."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from adapthub.adapters.errors import IntegrityError
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.downloading import Wanted, Watch
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Details, Entry, Lineage, Version

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.cache import Files


@dataclass(frozen=True)
class Pin:
    """What a name was resolved to: the adapter's `digest`, its `size` in bytes, and a `reference` that means the same for
    ever. `files` to download and the `contents` of those that are here already, where they are known. `signature`: its
    model.sig as the hub has it now, if there is one."""

    digest: str
    size: int
    reference: Reference
    files: tuple[Wanted, ...] = ()
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    signature: Wanted | None = None


class Speaker(Protocol):
    """One kind of hub. References are parsed, and their hub is this one; aliases and messages are checked."""

    def push(
        self, artifact: Artifact, reference: Reference, *, message: str, alias: str | None
    ) -> Version: ...

    def resolve(self, reference: Reference) -> Version: ...

    def pin(self, reference: Reference, held: str | None) -> Pin:
        """What `reference` means now, for `download`. `held`: the digest that it meant last, if its files are here."""
        ...

    def download(self, pin: Pin, parts: Path, watch: Watch) -> Files:
        """The adapter's files, each verified; `parts` is a folder for what comes piece by piece."""
        ...

    def list(self, namespace: str | None) -> builtins.list[Entry]: ...

    def search(
        self,
        text: str | None,
        *,
        base: str | None,
        task: str | None,
        metric: str | None,
        method: str | None,
        label: str | None,
    ) -> builtins.list[Entry]: ...

    def show(self, reference: Reference) -> Details: ...

    def lineage(self, reference: Reference) -> Lineage: ...

    def promote(self, reference: Reference, alias: str) -> Version: ...

    def attach_signature(self, reference: Reference, bundle: bytes) -> Version: ...

    def rollback(self, reference: Reference, alias: str) -> Version: ...

    def available(self, reference: Reference) -> bool: ...

    def check_may_push(self, reference: Reference) -> None: ...


def read_file(artifact: Artifact, path: str) -> bytes:
    """The bytes of a file. Raises IntegrityError where they changed since the artifact was read."""
    source = artifact.path / path
    try:
        data = source.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{source} can no longer be read: {error.strerror or error}") from error
    if sha256_bytes(data) != artifact.files[path].sha256:
        raise IntegrityError(f"{source} changed since it was read", hint="Read the adapter again.")
    return data
