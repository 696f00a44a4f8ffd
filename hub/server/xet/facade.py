"""The facade without HTTP: who may upload where, and what is removed when.

Does not read requests. Its methods may block on the disk: call them from worker threads.
"""

from __future__ import annotations

import time
from pathlib import Path

from anyio import CapacityLimiter

from adapthub.adapters.errors import Forbidden, Unauthorized
from adapthub.hub.server.xet.access import Claims, Tokens, WriteGrant
from adapthub.hub.server.xet.kept import KeptXorbs
from adapthub.hub.server.xet.limits import XetLimits
from adapthub.hub.server.xet.store import FileStore
from adapthub.hub.server.xet.upload import Upload

_SWEEP_SECONDS = 60


class XetFacade:
    """Uploads over Xet, kept in `root` until they are files in `store`; `secret` signs access tokens.

    Processes that serve one hub share `root` and `secret`. Raises StorageError where `root` cannot be used.
    """

    def __init__(self, root: Path, store: FileStore, secret: bytes, limits: XetLimits | None = None) -> None:
        self.kept = KeptXorbs(root, limits or XetLimits())
        self._store = store
        self._tokens = Tokens(secret, self.kept.limits.token_seconds)
        self._swept = -float("inf")
        # Apart: a shard of large files takes long.
        self.xorb_workers = CapacityLimiter(self.kept.limits.workers)
        self.shard_workers = CapacityLimiter(self.kept.limits.workers)

    def grant(self, repo: str, holder: str, base_url: str) -> WriteGrant:
        """Let `holder`, whom the hub has found to be allowed, upload for `repo`; `base_url` is where the hub answers.

        The address has an epoch and a generation in it: it changes whenever xorbs were removed that clients may believe in.
        """
        if time.monotonic() - self._swept > _SWEEP_SECONDS:
            self._swept = time.monotonic()
            self.sweep()
        epoch = self._store.epoch()
        generation = self.kept.current(epoch)
        token, expires = self._tokens.issue(Claims(repo=repo, holder=holder, epoch=epoch))
        return WriteGrant(f"{base_url.rstrip('/')}/xet/{epoch}/{generation}", token, expires)

    def admit(self, token: str, epoch: str, generation: str) -> Upload:
        """One request of an upload, with a token, at an address.

        A token is of an epoch, not of a generation: clients renew it during an upload, and stay at their address.

        Raises Unauthorized or Forbidden, and NotFound where what was uploaded to this address is gone.
        """
        claims = self._tokens.read(token)
        current = self._store.epoch()
        if claims.epoch != current or epoch != str(current):
            raise Unauthorized(
                f"the hub was restored or cleaned since this upload began: its epoch is {current} now",
                hint="Upload the files again.",
            )
        if not self._store.may_write(claims.repo, claims.holder):
            raise Forbidden(
                f"writing into {claims.repo} is no longer allowed", hint="Ask for a token that may write."
            )
        folder = self.kept.generation(current, generation)
        return Upload(self.kept, self._store, claims.repo, claims.holder, folder)

    def sweep(self) -> None:
        """Remove what no upload uses any more. `grant` does so too, at most once a minute."""
        self.kept.sweep(self._store.epoch())
