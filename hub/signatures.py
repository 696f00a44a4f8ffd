"""Signatures kept by the digest of what they sign, in a folder: for adapters whose files cannot change any more.

A signature beside a folder is `model.sig` in it. A published version has a digest, and its signature may come later; it is
the same wherever that digest lies. Keeps bytes and verifies none.
"""

from __future__ import annotations

import re
from pathlib import Path

from adapthub.adapters.admission import MAX_BYTES, SIGNATURE
from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.files import write_bytes
from adapthub.adapters.home import home

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Signatures:
    """The folder `root` (default: `signatures/` in AdaptHub's home), made on first use. Any number of processes may share
    it; of two who put one digest's signature at once, the last wins whole."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = home() / "signatures" if root is None else root

    def get(self, digest: str) -> bytes | None:
        """The signature of "sha256:<hex>", None where there is none; never more than admission reads."""
        path = self._path(digest)
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(MAX_BYTES[SIGNATURE] + 1)

    def put(self, digest: str, bundle: bytes) -> None:
        """Keep the signature of "sha256:<hex>", in place of one that is there. Raises StorageError."""
        write_bytes(self._path(digest), bundle)

    def _path(self, digest: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise InvalidInput(f"{digest!r} is not a digest", hint="It reads sha256: and 64 hex digits.")
        return self._root / f"{match[1]}.sig"
