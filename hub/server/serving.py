"""What all endpoints of a hub's server share: the store, the secret that URLs are signed with, and bounds.

Does not answer anybody.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from adapthub.adapters.home import make_folder, unusable
from adapthub.hub.differ import Differ
from adapthub.hub.server.signed_urls import Signer
from adapthub.hub.store import Store

SECRET = "secret"


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request may bring. `commit_bytes`: a commit with the text files in it; `json_bytes`: any other
    body; `page`: entries of a list on one page; `upload_seconds`: how long a signed URL to upload to is good for."""

    commit_bytes: int = 64 * 2**20
    json_bytes: int = 4 * 2**20
    page: int = 1000
    upload_seconds: int = 3600


@dataclass(frozen=True)
class Serving:
    """One server's state."""

    store: Store
    signer: Signer
    differ: Differ
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        database: str | None = None,
        blobs: str | None = None,
        limits: Limits | None = None,
    ) -> Serving:
        """Over the hub in `root` (see Store.open). Raises StorageError, InvalidSettings."""
        store = Store.open(root, database=database, blobs=blobs, kept=True)
        return cls(store, Signer(_secret(root / SECRET)), Differ(store.blobs), limits or Limits())

    def close(self) -> None:
        """Let go of the database, and end what runs. Idempotent."""
        self.differ.close()
        self.store.database.close()


def _secret(path: Path) -> bytes:
    """The secret in a file for its owner's eyes alone, made once: of two servers that make it at once, one is first."""
    try:
        make_folder(path.parent)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(aside, path)
        finally:
            aside.unlink()
        return path.read_bytes()
    except OSError as error:
        raise unusable(path.parent, error) from error
