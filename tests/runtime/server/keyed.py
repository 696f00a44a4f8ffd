"""A gate with a few tenants in memory, for tests that need some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapthub.adapters.errors import Unauthorized
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import Allowance, UsageRecord

# One administrator, and two tenants that see different adapters.
CALLERS = {
    "root-key": Caller("root", ("*",), admin=True),
    "acme-key": Caller("acme", ("acme/*",)),
    "zeta-key": Caller("zeta", ("zeta/*",)),
}


class KeyedGate:
    """Limits nothing; keeps what was recorded in `records`."""

    def __init__(self, callers: Mapping[str, Caller] = CALLERS) -> None:
        self._callers = callers
        self.records: list[UsageRecord] = []

    @property
    def open(self) -> bool:
        return False

    @property
    def weights(self) -> Mapping[str, float]:
        return {}

    def authenticate(self, key: str | None) -> Caller:
        if key is None or key not in self._callers:
            raise Unauthorized("no such key", hint="Send one of the test's.")
        return self._callers[key]

    def count(self, caller: Caller) -> None:
        return None

    def admit(self, caller: Caller, tokens: int) -> None:
        return None

    def allowances(self, caller: Caller) -> Sequence[Allowance]:
        return ()

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        self.records.append(usage)

    def close(self) -> None:
        return None
