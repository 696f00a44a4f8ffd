"""Who asks, as the server knows it for one request.

Does not read keys or count anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

EVERYTHING = "*"


@dataclass(frozen=True)
class Caller:
    """One tenant, for one request. `allow`: patterns of the adapters that it may use, as `namespace/name` ("acme/*"), or "*"
    for all. `admin`: whether it may change what is served.
    """

    tenant: str
    allow: tuple[str, ...]
    admin: bool = False

    def may_use(self, name: str) -> bool:
        """Whether the adapter `namespace/name` is there for this caller. Case counts; a wildcard stays within its part."""
        return any(pattern == EVERYTHING or _matches(name, pattern) for pattern in self.allow)


def _matches(name: str, pattern: str) -> bool:
    """Part by part, so that "acme/*" means neither acme/../zeta nor acme/a/b."""
    parts, patterns = name.split("/"), pattern.split("/")
    return (
        len(parts) == len(patterns)
        and not {"", ".", ".."} & {*parts}
        and all(fnmatchcase(*pair) for pair in zip(parts, patterns, strict=True))
    )


# The only caller of a server without tenants.
LOCAL = Caller(tenant="", allow=(EVERYTHING,), admin=True)
