"""What the facade asks of the hub: the narrow contract by which the two are joined. Implements nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class FileStore(Protocol):
    """What the facade asks of the hub. Called from several threads at once."""

    def epoch(self) -> int:
        """A number that is raised whenever kept xorbs may be fewer than clients believe: a restore, a hub begun anew."""
        ...

    def may_write(self, repo: str, holder: str) -> bool:
        """Whether the one who was granted an upload as `holder` may still write into `repo`."""
        ...

    def store(self, repo: str, sha256: str, size: int, blocks: Iterable[bytes]) -> None:
        """Store a file of `size` bytes, durably when this returns, and remember that `repo` was sent it.

        Also asked for a file that is there: `blocks` is to be read to its end all the same, for whoever refers to a file has
        to have it, not only to know its name.

        Raises IntegrityError where the blocks have another sha256, which nobody else finds out. `blocks` may raise, at any
        block: nothing may be visible under `sha256` before it has ended, nor remain where it raised. May refuse by raising
        an AdaptHubError.
        """
        ...
