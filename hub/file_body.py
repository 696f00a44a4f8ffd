"""A file as the body of a request: read while it is sent, and again whenever the request is. Does not hash it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapthub.adapters.errors import IntegrityError

_PIECE_BYTES = 2**20


class FileBody:
    """`size` bytes of the file at `path`, from `begin` on. Reading raises IntegrityError where they are not there."""

    def __init__(self, path: Path, size: int, *, begin: int = 0) -> None:
        self._path = path
        self._size = size
        self._begin = begin

    @property
    def headers(self) -> dict[str, str]:
        """What a request with this body says of it."""
        return {"content-length": str(self._size)}

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._begin)
                while left and (piece := stream.read(min(left, _PIECE_BYTES))):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise IntegrityError(f"{self._path} can no longer be read: {error.strerror or error}") from error
        if left:
            end = self._begin + self._size
            raise IntegrityError(f"{self._path} has {end - left} bytes, not {end}")
