"""A tenant and a key of one, as values: what they may hold, and when a key works.

Does not store them (store does) or count what is used (accounts does).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from adapthub.adapters.errors import InvalidSettings
from adapthub.runtime.tenants.caller import EVERYTHING

OTHER = "other"
"""No tenant's name: numbers have it of whom they do not tell apart."""

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,62}[a-z0-9_])?")
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,128}/[A-Za-z0-9._*?-]{1,128}")
_PATTERNS = 1000
_LIGHTEST, _HEAVIEST = 0.001, 1000.0
_MOST = 10**15  # more than a year's tokens of any machine, and less than SQLite's integers


@dataclass(frozen=True)
class Tenant:
    """One tenant; always valid. `allow`: patterns of adapters ("acme/*", or "*" for all). `weight`: its share of the engine.
    The limits are whole numbers above 0, or None for none; tokens are those of prompts and of answers.

    Raises InvalidSettings for a name, pattern or number that breaks the rules.
    """

    name: str
    allow: tuple[str, ...]
    created: datetime
    admin: bool = False
    weight: float = 1.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidSettings(
                f"{self.name[:80]!r} is not a tenant's name",
                hint="Use 1 to 64 lower-case letters, digits, '.', '_' and '-', not beginning or ending with '.' or '-'.",
            )
        if self.name == OTHER:
            raise InvalidSettings(
                f"{OTHER} is no tenant's name: numbers have it of tenants that they do not tell apart",
                hint="Choose another.",
            )
        _check_allow(self.name, self.allow)
        if not _LIGHTEST <= self.weight <= _HEAVIEST:  # also not a number
            raise InvalidSettings(
                f"the weight of {self.name} is {self.weight}",
                hint=f"Give a number from {_LIGHTEST:g} to {_HEAVIEST:g}.",
            )
        for what, limit in (
            ("requests a minute", self.requests_per_minute),
            ("tokens a minute", self.tokens_per_minute),
            ("tokens a month", self.tokens_per_month),
        ):
            if limit is not None and not 0 < limit <= _MOST:
                raise InvalidSettings(
                    f"the limit of {what} of {self.name} is {limit}",
                    hint="Give a whole number above 0, or none for no limit.",
                )


@dataclass(frozen=True)
class Key:
    """What is known of a key: `prefix` names it, `hash` is its sha256. It works until `expires` and `revoked`, UTC."""

    prefix: str
    hash: str
    tenant: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def state(self, now: datetime) -> str:
        """ "works", "expired" or "revoked"."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "works"


@dataclass(frozen=True)
class NewKey:
    """A key and its text, which nothing else holds."""

    key: Key
    text: str


@dataclass(frozen=True)
class Directory:
    """All tenants by name and all keys by prefix, at one moment: `revision` grows with every change to them."""

    revision: int = -1
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)


def _check_allow(name: str, allow: tuple[str, ...]) -> None:
    if not allow:
        raise InvalidSettings(
            f"{name} would be allowed no adapter at all",
            hint="Allow a pattern such as 'acme/*', or '*' for every adapter.",
        )
    if len(allow) > _PATTERNS:
        raise InvalidSettings(
            f"{len(allow)} patterns are more than the {_PATTERNS} that a tenant may have",
            hint="Use wildcards, such as 'acme/*'.",
        )
    for pattern in allow:
        if pattern != EVERYTHING and not _PATTERN.fullmatch(pattern):
            whole = f"'{pattern}/*'" if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", pattern) else "'acme/*'"
            raise InvalidSettings(
                f"{pattern[:80]!r} is not a pattern of adapters",
                hint=f"Write namespace/name with * and ? as wildcards, such as {whole}, or '*' for every adapter.",
            )
