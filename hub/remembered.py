"""What names meant when they were pulled last, so that a pull works while their hub cannot be reached.

    cache/names/<hub>/<namespace>/<name>.json    revision to digest, of one hub

A convenience: what cannot be read or written here is as if it had never been. Digests only; the files are the cache's.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from adapthub.adapters.files import sha256_bytes
from adapthub.hub.reference import NEWEST, Reference

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST = 256  # revisions of a name


class Remembered:
    """The names of the hub at `url`, below the cache's folder `cache`."""

    def __init__(self, cache: Path, url: str) -> None:
        self._root = cache / "names" / sha256_bytes(url.encode())[:16]

    def note(self, reference: Reference, digest: str) -> None:
        """`reference` means `digest` now."""
        known = self._read(reference)
        if known.get(_key(reference)) == digest:
            return
        known.pop(_key(reference), None)
        known[_key(reference)] = digest
        while len(known) > _MOST:
            del known[next(iter(known))]
        path = self._path(reference)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, aside = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(descriptor, "w") as stream:
                json.dump(known, stream)
            Path(aside).replace(path)

    def digest(self, reference: Reference) -> str | None:
        """What `reference` meant last, None where that is not known."""
        return self._read(reference).get(_key(reference))

    def _read(self, reference: Reference) -> dict[str, str]:
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads(self._path(reference).read_text())
            return {str(key): value for key, value in found.items() if _DIGEST.fullmatch(str(value))}
        return {}

    def _path(self, reference: Reference) -> Path:
        return self._root / reference.namespace / f"{reference.name}.json"


def _key(reference: Reference) -> str:
    newest = reference.revision is None or reference.revision in NEWEST
    return NEWEST[0] if newest else str(reference.revision)
