"""What requests are counted by: tenant and adapter, bounded, so that no client can make the server count without end.

Does not count.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from adapthub.runtime.server.catalog import Target
from adapthub.runtime.tenants.tenant import OTHER

_SUM = "expression"  # weights are the client's: there is no end of them
_IDLE = 3600.0  # seconds after which labels make room for others


class Groups:
    """The labels (tenant, adapter) that a server tells apart: those of `tenants` tenants and `pairs` pairs, a fifth of them
    for one tenant, for "" (there are no tenants) all; the others together as "other". What nobody used for an hour makes
    room, and `forgotten` are told. The base alone is "base", a sum of adapters "expression".

    `clock`: seconds. Belongs to one event loop.
    """

    def __init__(
        self, tenants: int = 100, pairs: int = 500, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_tenants = tenants
        self._most_pairs = pairs
        self._clock = clock
        self._used: OrderedDict[tuple[str, str], float] = (
            OrderedDict()
        )  # when last; what was idle longest first
        self._pairs: Counter[str] = Counter()  # by tenant; no tenant without any
        self.forgotten: list[Callable[[tuple[str, str]], None]] = []

    def of(self, tenant: str, target: Target) -> tuple[str, str]:
        """The labels of one request. Without tenants the first is ""."""
        pair = tenant, adapter_of(target)
        if pair not in self._used:
            self._forget_idle()
            pair = self._fitting(*pair)
        if pair not in self._used:
            self._pairs[pair[0]] += 1
        self._used[pair] = self._clock()
        self._used.move_to_end(pair)
        return pair

    def _fitting(self, tenant: str, adapter: str) -> tuple[str, str]:
        """These labels, or what there is room for instead: (tenant, "other") always, once the tenant is told apart."""
        if tenant not in self._pairs and len(self._pairs) >= self._most_tenants:
            return OTHER, OTHER
        most = self._most_pairs // 5 if tenant else self._most_pairs
        own = self._pairs[tenant] - ((tenant, OTHER) in self._used)
        if len(self._used) >= self._most_pairs or own >= most:
            return tenant, OTHER
        return tenant, adapter

    def _forget_idle(self) -> None:
        last = self._clock() - _IDLE
        while self._used and next(iter(self._used.values())) < last:
            pair, _ = self._used.popitem(last=False)
            self._pairs[pair[0]] -= 1
            if not self._pairs[pair[0]]:
                del self._pairs[pair[0]]
            for tell in self.forgotten:
                tell(pair)


def adapter_of(target: Target) -> str:
    """One adapter's name with its version, or what it is instead."""
    if not target.label:
        return "base"
    return _SUM if "*" in target.label or " + " in target.label else target.label
