"""Where blobs are: a folder or an object store, by path or URL."""

from __future__ import annotations

from pathlib import Path

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.storage.blobs import Blobs
from adapthub.hub.storage.folder_blobs import FolderBlobs
from adapthub.hub.storage.object_blobs import ObjectBlobs


def open_blobs(where: Path | str) -> Blobs:
    """The blobs in a folder, made if it is missing, or at a URL: `s3://bucket/prefix`, whose keys and endpoint are AWS's
    environment variables. Raises StorageError where it cannot be used, InvalidSettings for another URL."""
    if isinstance(where, Path):
        return FolderBlobs(where)
    if where.startswith("s3://"):
        return ObjectBlobs.open(where)
    if "://" not in where:
        return FolderBlobs(Path(where))
    raise InvalidSettings(
        f"{where!r} is not a place for blobs", hint="Write s3://bucket/prefix, or the path of a folder."
    )
