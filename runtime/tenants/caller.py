"""Who asks, as the server knows it for one request.

Does not read keys or count anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Caller:
    """One tenant, for one request. `allow`: patterns of the adapters that it may use, as `namespace/name` ("acme/*", "*").

    `admin`: whether it may change what is served.
    """

    tenant: str
    allow: tuple[str, ...]
    admin: bool = False

    def may_use(self, name: str) -> bool:
        """Whether the adapter `namespace/name` is there for this caller."""
        return any(fnmatchcase(name, pattern) for pattern in self.allow)


# The only caller of a server without tenants.
LOCAL = Caller(tenant="", allow=("*",), admin=True)
