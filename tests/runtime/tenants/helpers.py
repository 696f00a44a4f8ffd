"""Tenants, usage and clocks for the tests of tenants."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adapthub.hub.storage.database import Database
from adapthub.runtime.tenants.gate import UsageRecord
from adapthub.runtime.tenants.ledger import Ledger
from adapthub.runtime.tenants.store import TenantStore
from adapthub.runtime.tenants.tables import SCHEMA
from adapthub.runtime.tenants.tenant import Tenant

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
_ids = itertools.count()


class Clock:
    """Seconds that pass only when a test says so, and the time in UTC that goes with them."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds - 1000.0)


def tenant(name: str = "acme", *allow: str, **settings: Any) -> Tenant:
    return Tenant(name, allow or ("acme/*",), NOW, **settings)


def store_at(path: Path, clock: Clock | None = None) -> TenantStore:
    """A store, made if it is not there."""
    return TenantStore(Database(path, SCHEMA), now=(clock or Clock()).now)


def used(name: str = "acme", prompt: int = 10, completion: int = 5, **fields: Any) -> UsageRecord:
    given: dict[str, Any] = {
        "id": f"request-{next(_ids)}",
        "when": NOW,
        "tenant": name,
        "kind": "chat",
        "adapter": "acme/sql@v1",
        "prompt_tokens": prompt,
        "cached_tokens": 0,
        "completion_tokens": completion,
        "outcome": "stop",
    }
    return UsageRecord(**(given | fields))


@contextmanager
def ledger_at(path: Path, **options: Any) -> Iterator[Ledger]:
    database = Database(path, SCHEMA, kept=True, **options)
    ledger = Ledger(database)
    try:
        yield ledger
    finally:
        ledger.close()
        database.close()
