"""The gate of a server with tenants: keys from the store, limits from the accounts, usage into the ledger.

What other processes change in the store is seen within a second: not the keys of a request are looked up then, but once a
second whether anything changed at all, however many requests come and whatever keys they bring. While the store cannot be
read, what was read last holds for a minute. Does not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock

from adapthub.adapters.errors import Overloaded, StorageError, Unauthorized
from adapthub.hub.storage.database import Database
from adapthub.runtime.tenants.accounts import Accounts, month_of
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import Allowance, Gate, OpenGate, UsageRecord
from adapthub.runtime.tenants.keys import fits, prefix_of
from adapthub.runtime.tenants.ledger import Ledger
from adapthub.runtime.tenants.store import TenantStore
from adapthub.runtime.tenants.tables import SCHEMA, default_path
from adapthub.runtime.tenants.tenant import Directory, Tenant
from adapthub.runtime.tenants.usage import month_totals

_LOG = logging.getLogger(__name__)
_FRESH = 1.0  # seconds for which the store is not asked again
_HOLDS = 60.0  # seconds for which what was read goes on to hold, once the store cannot be read
_BUSY = 5.0  # seconds that a writer waits for others, before it is said that usage cannot be written
_PATIENCE = 10.0  # seconds that an answer waits for the record of what it used
_ASK = "Ask whoever runs this server for a key."


def open_gate(path: Path | None = None) -> Gate:
    """The gate for the tenants at `path` (default: in AdaptHub's home): open to everybody where there are none.

    Which of the two it is stays so: a server that began with tenants refuses everybody when the last one is removed, and
    one that began without asks for keys when it is started again. Raises StorageError.
    """
    path = path or default_path()
    if path.exists() and TenantStore.open(path).tenants():
        return TenantGate(path)
    return OpenGate()


class TenantGate:
    """A `Gate`; any thread may use it. `clock`: seconds; `now`: the time in UTC. Raises StorageError."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._now = now
        self._database = Database(path, SCHEMA, kept=True, busy_seconds=_BUSY)
        self._store = TenantStore(self._database)
        self._accounts = Accounts(clock=clock, now=now)
        self._directory = Directory()
        self._weights: dict[str, float] = {}
        self._refreshing = Lock()
        self._asked_at = clock()
        self._failing_since: float | None = None
        self._refresh()
        self._ledger = Ledger(self._database)

    @property
    def open(self) -> bool:
        return False

    @property
    def weights(self) -> Mapping[str, float]:
        return self._weights

    def authenticate(self, key: str | None) -> Caller:
        if not key:
            raise Unauthorized("no key was given", hint="Send one as Authorization: Bearer ah_...")
        directory = self._current()
        prefix = prefix_of(key)
        found = directory.keys.get(prefix) if prefix else None
        if found is None or not fits(key, found.hash):
            raise Unauthorized("the key is not one of this server's", hint=_ASK)
        if (state := found.state(self._now())) != "works":
            was = "was revoked" if state == "revoked" else f"expired on {found.expires:%Y-%m-%d %H:%M} UTC"
            raise Unauthorized(f"the key {prefix} {was}", hint=_ASK)
        tenant = directory.tenants[found.tenant]
        return Caller(tenant.name, tenant.allow, tenant.admin)

    def count(self, caller: Caller) -> None:
        self._accounts.count(self._tenant(caller))

    def admit(self, caller: Caller, tokens: int) -> None:
        if self._ledger.behind:  # nobody is served for nothing
            raise Overloaded(
                "what requests use cannot be written down at present, so that none is taken",
                hint="Send it again later; the server's log says what is wrong.",
            )
        self._accounts.admit(self._tenant(caller), tokens)

    def allowances(self, caller: Caller) -> Sequence[Allowance]:
        tenant = self._directory.tenants.get(caller.tenant)  # it may have been removed while it was answered
        return () if tenant is None else self._accounts.allowances(tenant)

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        written = self._ledger.record(usage)
        # On the ledger's thread: what was admitted stops to count when what was used does, whether anybody awaits it or not.
        written.add_done_callback(partial(self._settle, usage, admitted))
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.wrap_future(written)
        except TimeoutError:
            raise Overloaded(
                f"what the request {usage.id} used could not be written down in time, so that its answer is incomplete",
                hint="It will be written and counts; send the request again later.",
            ) from None

    def close(self) -> None:
        self._ledger.close()
        self._database.close()

    def _tenant(self, caller: Caller) -> Tenant:
        tenant = self._directory.tenants.get(caller.tenant)
        if tenant is None:
            raise Unauthorized(f"{caller.tenant} is no tenant of this server any more", hint=_ASK)
        return tenant

    def _settle(self, usage: UsageRecord, admitted: int, written: Future[int]) -> None:
        if written.exception() is None:
            self._accounts.see(month_of(usage.when), {usage.tenant: written.result()})
        self._accounts.settle(usage.tenant, admitted, usage.tokens)

    def _current(self) -> Directory:
        """The tenants and keys; read again by the first who asks when they are old, while others go on with what was.

        Raises Overloaded once they could not be read for too long.
        """
        if self._clock() - self._asked_at >= _FRESH and self._refreshing.acquire(blocking=False):
            self._asked_at = self._clock()
            try:
                self._refresh()
            except StorageError as error:
                _LOG.warning("the tenants cannot be read, and are taken to be as they were: %s", error)
                self._failing_since = self._failing_since or self._asked_at
            else:
                self._failing_since = None
            finally:
                self._refreshing.release()
        since = self._failing_since
        if since is not None and self._clock() - since > _HOLDS:
            raise Overloaded(
                "keys cannot be checked at present",
                hint="Send it again later; the server's log says what is wrong.",
            )
        return self._directory

    def _refresh(self) -> None:
        month = month_of(self._now())
        self._accounts.see(month, month_totals(self._database, month))
        directory = self._store.directory(self._directory)
        for name in self._weights.keys() - directory.tenants.keys():
            del self._weights[name]
        self._weights.update({tenant.name: tenant.weight for tenant in directory.tenants.values()})
        self._directory = directory
