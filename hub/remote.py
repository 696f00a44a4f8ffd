"""A registry over any hub that speaks the Hugging Face protocol: one of AdaptHub's own, or a plain one such as the public.

Which of them it is, is asked at the first request. A name is resolved once, to a digest or a commit, and everything after
goes by that; what comes is verified and kept in the cache by digest. Where the hub cannot be reached, a pull answers from
the cache with what the name meant last.
"""

from __future__ import annotations

import builtins
import dataclasses
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import (
    InvalidReference,
    InvalidSettings,
    NotFound,
    StorageError,
    Unreachable,
)
from adapthub.adapters.home import home
from adapthub.hub.cache import Cache
from adapthub.hub.completeness import check_complete
from adapthub.hub.downloading import Wanted, Watch, check_bytes, is_of, unwatched
from adapthub.hub.facts import is_unicode
from adapthub.hub.reference import Reference, check_alias, parse_name
from adapthub.hub.registry import Details, Entry, Lineage, Version
from adapthub.hub.remembered import Remembered
from adapthub.hub.speaker import Speaker

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.connection import Connection

_LOG = logging.getLogger(__name__)


class RemoteHub:
    """A `Registry` at the other end of `connection`, called `name` in references.

    `cache` is where pulled adapters are kept (default: `cache/` in AdaptHub's home); `watch` is told how far a pull is.
    Opening asks nothing; every method may raise Unreachable.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        name: str | None = None,
        cache: Path | None = None,
        watch: Watch = unwatched,
    ) -> None:
        folder = home() / "cache" if cache is None else cache
        self.url = connection.url
        self._connection = connection
        self._hub_name = name
        self._cache = Cache(folder)
        self._remembered = Remembered(folder, connection.url)
        self._watch = watch

    def push(self, artifact: Artifact, name: str, *, message: str = "", alias: str | None = None) -> Version:
        reference = self._local(parse_name(name))
        if alias is not None:
            check_alias(alias)
        if not is_unicode(message):
            raise InvalidSettings("the message is not valid Unicode text")
        check_complete(artifact)
        if artifact.signature is not None:
            from adapthub.hub import signing

            signing.check_is_of(artifact.signature, artifact.sha256s, str(artifact.path))
        return self._speaker.push(artifact, reference, message=message, alias=alias)

    def resolve(self, ref: str | Reference) -> Version:
        return self._speaker.resolve(self._parse(ref))

    def pull(self, ref: str | Reference) -> Artifact:
        reference = self._parse(ref)
        if reference.commit is not None and len(reference.commit) == 64:
            kept = self._cache.get(f"sha256:{reference.commit}")
            if kept is not None:
                return kept
        try:
            held = self._remembered.digest(reference)
            pin = self._speaker.pin(reference, held if held and self._cache.holds(held) else None)
            self._remembered.note(reference, pin.digest)
            signature = None if pin.signature is None else self._signature(pin.digest, pin.signature)
        except Unreachable as error:
            return self._pull_offline(reference, error)
        parts = self._cache.parts(pin.digest)
        return self._cache.pull(
            pin.digest, lambda: self._speaker.download(pin, parts, self._watch), signature
        )

    def list(self, namespace: str | None = None) -> builtins.list[Entry]:
        return self._speaker.list(namespace)

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
        return self._speaker.search(text, base=base, task=task, metric=metric, method=method, label=label)

    def show(self, ref: str | Reference) -> Details:
        return self._speaker.show(self._parse(ref))

    def lineage(self, ref: str | Reference) -> Lineage:
        return self._speaker.lineage(self._parse(ref))

    def promote(self, ref: str | Reference, alias: str) -> Version:
        reference = self._parse(ref)
        return self._speaker.promote(reference, check_alias(alias))

    def attach_signature(self, ref: str | Reference, bundle: bytes) -> Version:
        return self._speaker.attach_signature(self._parse(ref), bundle)

    def rollback(self, name: str | Reference, alias: str) -> Version:
        reference = self._local(parse_name(name))
        return self._speaker.rollback(reference, check_alias(alias))

    def available(self, name: str | Reference) -> bool:
        return self._speaker.available(self._local(parse_name(name)))

    def check_may_push(self, name: str | Reference) -> None:
        self._speaker.check_may_push(self._local(parse_name(name)))

    @cached_property
    def _speaker(self) -> Speaker:
        """Raises Unreachable where nobody answers, StorageError where it is no hub that this version knows."""
        from adapthub.hub.own_hub import OwnHub
        from adapthub.hub.wire import PROTOCOL

        try:
            hello = self._connection.read(dict[str, Any], "/api/adapthub")
        except NotFound:
            from adapthub.hub.plain_hub import PlainHub

            return PlainHub(self._connection)
        spoken = hello.get("protocol")
        if spoken != PROTOCOL:
            raise StorageError(
                f"the hub at {self.url} speaks protocol {spoken}, and this version of AdaptHub {PROTOCOL}",
                hint="Update AdaptHub here or there.",
            )
        return OwnHub(self._connection)

    def _signature(self, digest: str, wanted: Wanted) -> bytes:
        """The model.sig of an adapter, brought where another one or none is kept."""
        kept = self._cache.signature(digest)
        if kept is not None and is_of(wanted, kept):
            return kept
        data = self._connection.ask("GET", wanted.where).content
        check_bytes(wanted, data)
        return data

    def _pull_offline(self, reference: Reference, error: Unreachable) -> Artifact:
        """What `reference` meant when it was pulled last. Raises `error` where it never was, or is no longer kept."""
        digest = self._remembered.digest(reference)
        artifact = None if digest is None else self._cache.get(digest)
        if artifact is None:
            raise error
        _LOG.warning(
            "%s; %s is used as it was pulled last, %s", error.message, reference, artifact.digest[:19]
        )
        return artifact

    def _parse(self, ref: str | Reference) -> Reference:
        return self._local(ref if isinstance(ref, Reference) else Reference.parse(ref))

    def _local(self, reference: Reference) -> Reference:
        if reference.hub not in (None, self._hub_name):
            raise InvalidReference(
                f"{reference} names the hub {reference.hub!r}, and this is {self.url}",
                hint=f"Leave out {reference.hub}::.",
            )
        return dataclasses.replace(reference, hub=None)
