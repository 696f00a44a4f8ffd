"""What all endpoints of a hub's server share: the store, what it signs, uploads over Xet, and bounds.

Does not answer anybody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from anyio import CapacityLimiter

from adapthub.hub.differ import Differ
from adapthub.hub.secret import secret_of
from adapthub.hub.server.rates import Rates
from adapthub.hub.server.signed import Signer
from adapthub.hub.server.xet import XetFacade
from adapthub.hub.server.xet_store import XetStore
from adapthub.hub.store import Store
from adapthub.web.bodies import Bounds

XET = "xet"
_LARGE_BODIES = 4
_LARGE_FILES = 4  # each reads and writes up to 8 GiB


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request may bring.

    `commit_bytes`: a commit with the text files in it; `json_bytes`: any other body; `body_seconds`: what any body may take,
    beyond which it is to come at `body_rate` bytes a second, what a request's headers may, and what answers may lie unread,
    beyond which they are to be read at that rate; `page`: entries of a list on one page; `upload_seconds`: how
    long a signed URL is good for; `part_bytes`: in parts of how many bytes larger files of LFS come; `rate`: how many
    requests a caller may make in how many seconds; `login_rate`: how many an address that has no token yet may, to get one
    (a device asks every second).
    """

    commit_bytes: int = 64 * 2**20
    json_bytes: int = 4 * 2**20
    body_seconds: float = 60
    body_rate: int = 8 * 2**10
    page: int = 1000
    upload_seconds: int = 3600
    part_bytes: int = 64 * 2**20
    rate: tuple[int, int] | None = None
    login_rate: tuple[int, int] = (600, 60)

    @property
    def body(self) -> Bounds:
        """Of any other body than a commit."""
        return Bounds(self.json_bytes, self.body_seconds, self.body_rate)


@dataclass(frozen=True)
class Serving:
    """One server's state. Threads of their own read `large_bodies`, and put `large_files` together from their parts, a few
    at once; `large_text` is held by the one of them that has a large text in memory."""

    store: Store
    signer: Signer
    xet: XetFacade
    differ: Differ
    limits: Limits = field(default_factory=Limits)
    rates: Rates | None = None
    login_rates: Rates | None = None
    large_bodies: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_LARGE_BODIES))
    large_files: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_LARGE_FILES))
    large_text: Lock = field(default_factory=Lock)

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
        secret = secret_of(store.database)
        xet = XetFacade(root / XET, XetStore(store), secret)
        limits = limits or Limits()
        rates = None if limits.rate is None else Rates(*limits.rate)
        signer, logins = Signer(secret, limits.upload_seconds), Rates(*limits.login_rate)
        return cls(store, signer, xet, Differ(store.blobs), limits, rates, logins)

    def sweep(self) -> None:
        """Remove what uploads and comparisons that ended or died have left: from time to time. Raises StorageError."""
        self.store.blobs.discard_abandoned()
        self.differ.sweep()
        self.xet.sweep()

    def close(self) -> None:
        """Let go of the database, and end what runs. Idempotent."""
        self.differ.close()
        self.store.database.close()
