"""What requests are counted by: tenant and adapter, bounded, so that no client can make the server count without end.

Does not count.
"""

from __future__ import annotations

from adapthub.runtime.server.catalog import Target

OTHER = "other"
_SUM = "expression"  # weights are the client's: there is no end of them


class Groups:
    """The labels (tenant, adapter) that a server tells apart: the first `tenants` tenants and the first `pairs` pairs, the
    others together as "other". The base alone is "base", a sum of adapters "expression"."""

    def __init__(self, tenants: int = 100, pairs: int = 500) -> None:
        self._most_tenants = tenants
        self._most_pairs = pairs
        self._tenants: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()

    def of(self, tenant: str, target: Target) -> tuple[str, str]:
        """The labels of one request. Without tenants the first is ""."""
        if tenant not in self._tenants:
            if len(self._tenants) >= self._most_tenants:
                return OTHER, OTHER
            self._tenants.add(tenant)
        pair = tenant, adapter_of(target)
        if pair not in self._pairs:
            if len(self._pairs) >= self._most_pairs:
                return tenant, OTHER
            self._pairs.add(pair)
        return pair


def adapter_of(target: Target) -> str:
    """One adapter's name with its version, or what it is instead."""
    if not target.label:
        return "base"
    return _SUM if "*" in target.label or " + " in target.label else target.label
