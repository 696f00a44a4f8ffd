"""A hub that speaks the Hugging Face protocol alone, as the public one does, as far as it can keep a registry's invariants.

A version is a commit on main whose tree is a whole adapter that was not there before, counted from the oldest. An alias is a
tag; promoting takes it away and makes it again, which are two requests, and no hub of this kind records where it was, so
nothing is rolled back. Lists come from tags and cards, and know no version. Uploads are `huggingface_hub`'s.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from adapthub.adapters.admission import SIGNATURE
from adapthub.adapters.description import describe
from adapthub.adapters.errors import AdapterNotFound, Forbidden, InvalidSettings, Unreachable
from adapthub.hub.connection import error_of
from adapthub.hub.downloading import Wanted, Watch, download, is_of
from adapthub.hub.facts import read_facts
from adapthub.hub.lineage import ancestors
from adapthub.hub.plain_documents import ListedDocument, WhoDocument
from adapthub.hub.plain_facts import entry_of
from adapthub.hub.plain_reading import Commit, PlainReading, Stored
from adapthub.hub.reference import NEWEST, Reference
from adapthub.hub.registry import Alias, Details, Entry, Lineage, StoredFile, Version
from adapthub.hub.speaker import Pin, read_file

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.cache import Files
    from adapthub.hub.connection import Connection

MOST_LISTED = 1000
_ATTEMPTS = 5


class PlainHub:
    """The hub at the other end of `connection`. What it raises, `Registry` says."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reading = PlainReading(connection)

    def push(self, artifact: Artifact, reference: Reference, *, message: str, alias: str | None) -> Version:
        version = self._with_digest(reference, artifact.digest)
        if version is not None:
            pinned = replace(reference, revision=version.digest.removeprefix("sha256:"))
            if artifact.signature is not None:
                self.attach_signature(pinned, artifact.signature)
            version = replace(version, repeated=True)
        else:
            version = self._version_at(reference, self._commit(artifact, reference, message))
        if alias is not None:
            self.promote(replace(reference, revision=version.digest.removeprefix("sha256:")), alias)
        return version

    def resolve(self, reference: Reference) -> Version:
        return self._version_at(reference, self._reading.commit(reference))

    def pin(self, reference: Reference, held: str | None) -> Pin:
        commit = self._reading.commit(reference)
        stored = self._reading.require_adapter(reference, commit)
        return Pin(
            self._reading.digest(stored),
            stored.size,
            Reference(None, reference.namespace, reference.name, commit),
            tuple(file for file in stored.files.values() if file.sha256 is not None),
            self._reading.texts(stored),
            self._signature(reference, stored),
        )

    def download(self, pin: Pin, parts: Path, watch: Watch) -> Files:
        yield from pin.contents.items()
        yield from download(self._connection, pin.files, parts, watch)

    def list(self, namespace: str | None) -> builtins.list[Entry]:
        return self._entries({"author": namespace})

    def search(
        self,
        text: str | None,
        *,
        base: str | None,
        task: str | None,
        metric: str | None,
        method: str | None,
        label: str | None,
    ) -> builtins.list[Entry]:
        fingerprint = base if base is not None and base.startswith("sha256:") else None
        for kind, value in (("metric", metric), ("label", label), ("fingerprint", fingerprint)):
            if value is not None:
                raise InvalidSettings(
                    f"{self._connection.url} is not searched by {kind}: it is no hub of AdaptHub's",
                    hint="Search by words, base, task or method.",
                )
        tags = [*([f"base_model:adapter:{base}"] if base else []), *([method] if method else [])]
        return self._entries({"search": text, "pipeline_tag": task, "filter": tags})

    def show(self, reference: Reference) -> Details:
        version, commit = self._counted(reference)
        stored = self._reading.require_adapter(reference, commit)
        texts = self._reading.texts(stored)
        files = self._reading.records(stored)
        described = describe(files, texts, (), str(reference))
        manifest = described.manifest
        versions = [*enumerate(self._reading.versions(reference), start=1)][::-1]
        numbers = {made.oid: number for number, (made, _) in versions}
        return Details(
            version=version,
            facts=read_facts(described),
            versions=tuple(self._version(reference, number, *one) for number, one in versions),
            aliases=tuple(
                Alias(name, numbers[oid], ())
                for name, oid in sorted(self._reading.refs(reference).items())
                if oid in numbers
            ),
            files=tuple(StoredFile(path, one.sha256, one.size) for path, one in sorted(files.items())),
            manifest=None if manifest is None else manifest.document(),
        )

    def lineage(self, reference: Reference) -> Lineage:
        return ancestors(self, reference)

    def promote(self, reference: Reference, alias: str) -> Version:
        version, commit = self._counted(reference)
        refs = self._reading.refs(reference)
        if refs.get(alias) != commit:
            with uploading(self._connection) as api:
                if alias in refs:
                    api.delete_tag(reference.full_name, tag=alias)
                api.create_tag(reference.full_name, tag=alias, revision=commit)
        return version

    def attach_signature(self, reference: Reference, bundle: bytes) -> Version:
        from huggingface_hub import CommitOperationAdd

        from adapthub.hub import signing

        version, commit = self._counted(reference)
        stored = self._reading.require_adapter(reference, commit)
        files = {path: record.sha256 for path, record in self._reading.records(stored).items()}
        signing.check_is_of(bundle, files, str(reference))
        known = self._signature(reference, stored)
        if known is not None and is_of(known, bundle):
            return version
        head = self._head(reference)
        newest = self._reading.adapter(reference, head)
        if newest is None or newest.identity != stored.identity:
            raise InvalidSettings(
                f"{reference} is not what {reference.full_name} is now, and {self._connection.url} keeps a signature only "
                "beside the files that it is over",
                hint="Sign the newest version.",
            )
        with uploading(self._connection) as api:
            api.create_commit(
                reference.full_name,
                [CommitOperationAdd(SIGNATURE, bundle)],
                commit_message=f"Signature of {version.digest[:19]}",
                parent_commit=head,
            )
        return version

    def rollback(self, reference: Reference, alias: str) -> Version:
        raise InvalidSettings(
            f"{self._connection.url} keeps no history of {alias}: an alias is a tag there",
            hint=f"Promote the version that you want, such as {reference.full_name}@v1.",
        )

    def available(self, reference: Reference) -> bool:
        try:
            self._reading.info(reference)
        except AdapterNotFound:
            return True
        return False

    def check_may_push(self, reference: Reference) -> None:
        if not self.available(reference):
            self._connection.ask("GET", f"/api/models/{reference.full_name}/auth-check/write")
            return
        who = self._connection.read(WhoDocument, "/api/whoami-v2")
        if who.scope == "read":
            raise Forbidden(
                f"the token for {self._connection.url} only reads", hint="Log in with one that may write."
            )
        if who.scope != "write" or reference.namespace.lower() in who.writes_to:
            return  # what a token of another scope may, such as a fine-grained one, is not said
        raise Forbidden(
            f"{who.name} may not write to {reference.namespace}/ on {self._connection.url}",
            hint=f"Publish under {who.name}/, or an organisation that lets you.",
        )

    def _commit(self, artifact: Artifact, reference: Reference, message: str) -> str:
        """Make the adapter all that main holds of one, in one commit; its id."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        contents = {path: read_file(artifact, path) for path in artifact.files}
        if artifact.signature is not None:
            contents[SIGNATURE] = artifact.signature
        with uploading(self._connection) as api:
            api.create_repo(reference.full_name, exist_ok=True)
            for attempt in range(_ATTEMPTS):
                head = self._head(reference)
                stored = self._reading.adapter(reference, head)
                gone = [] if stored is None else sorted(stored.paths - contents.keys())
                try:
                    done = api.create_commit(
                        reference.full_name,
                        [
                            *(CommitOperationAdd(path, data) for path, data in contents.items()),
                            *(CommitOperationDelete(path) for path in gone),
                        ],
                        commit_message=message or f"Push {artifact.digest[:19]}",
                        parent_commit=head,
                    )
                except HfHubHTTPError as error:
                    if error.response.status_code not in (409, 412) or attempt == _ATTEMPTS - 1:
                        raise
                else:
                    return str(done.oid)
        raise AssertionError("the last attempt returns or raises")

    def _signature(self, reference: Reference, stored: Stored) -> Wanted | None:
        """The signature of an adapter in a commit that `reference` means: main's, while it has the same adapter."""
        if reference.revision is None or reference.revision in NEWEST:
            return stored.signature
        newest = self._reading.adapter(reference, self._head(reference))
        if newest is not None and newest.identity == stored.identity:
            return newest.signature or stored.signature
        return stored.signature

    def _head(self, reference: Reference) -> str:
        return self._reading.info(reference).sha

    def _with_digest(self, reference: Reference, digest: str) -> Version | None:
        try:
            versions = self._reading.versions(reference)
        except AdapterNotFound:
            return None
        for number, (commit, stored) in enumerate(versions, start=1):
            if self._reading.digest(stored) == digest:
                return self._version(reference, number, commit, stored)
        return None

    def _counted(self, reference: Reference) -> tuple[Version, str]:
        """The version that `reference` means, and its commit."""
        commit = self._reading.commit(reference)
        return self._version_at(reference, commit), commit

    def _version_at(self, reference: Reference, commit: str) -> Version:
        """The version that a commit is: the number 0 where main has no such version, as on another branch."""
        stored = self._reading.require_adapter(reference, commit)
        for number, (made, known) in enumerate(self._reading.versions(reference), start=1):
            if known.identity == stored.identity:
                return self._version(reference, number, made, known)
        info = self._reading.info(reference, commit)
        return self._version(reference, 0, Commit(commit, "", info.lastModified.astimezone(UTC)), stored)

    def _version(self, reference: Reference, number: int, commit: Commit, stored: Stored) -> Version:
        digest = self._reading.digest(stored)
        return Version(reference.full_name, number, digest, commit.created, commit.message, stored.size)

    def _entries(self, conditions: Mapping[str, Any]) -> builtins.list[Entry]:
        """The adapters that the hub calls PEFT's, by name: the newest thousand of them."""
        given = {key: value for key, value in conditions.items() if value}
        given["filter"] = ["peft", *given.get("filter", ())]
        query = urlencode({**given, "full": "true", "cardData": "true", "limit": 100}, doseq=True)
        items = islice(self._reading.pages(ListedDocument, f"/api/models?{query}"), MOST_LISTED)
        entries = [entry for item in items if (entry := entry_of(item)) is not None]
        return sorted(entries, key=lambda entry: entry.name)


@contextmanager
def uploading(connection: Connection) -> Iterator[HfApi]:
    """Within: Hugging Face's own client for what is written, whose failures are errors of ours and whose token goes to the
    hub's origin alone: an LFS answer may name any host to report to."""
    import httpx2
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    token = connection.token

    def keep_home(request: httpx2.Request) -> None:
        mine = token is not None and request.headers.get("authorization") == f"Bearer {token}"
        if mine and not connection.is_own(str(request.url)):
            del request.headers["authorization"]

    hooks = get_session().event_hooks
    hooks["request"].append(keep_home)
    try:
        yield HfApi(endpoint=connection.url, token=token or False)
    except HfHubHTTPError as error:
        raise error_of(error.response, connection.url) from error
    except (OfflineModeIsEnabled, httpx2.TransportError) as error:
        raise Unreachable(f"the hub at {connection.url} cannot be reached: {error}") from error
    finally:
        hooks["request"].remove(keep_home)
