"""What the tests run in other processes: many changes to one store."""

from __future__ import annotations

from pathlib import Path

from adapthub.runtime.tenants.store import TenantStore


def change_all(path: Path, name: str, count: int) -> list[str]:
    """Give `name` that many keys and limits, one after another; the keys."""
    store = TenantStore.open(path)
    keys = []
    for number in range(count):
        keys.append(store.add_key(name).text)
        store.change(name, tokens_per_month=number + 1)
    return keys
