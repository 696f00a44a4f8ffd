"""The gate of the server: who a key belongs to, whether a request may pass now, and what it used.

`Gate` is the contract. `OpenGate` is the one of a server without tenants: everybody is the local user, and nothing is
limited. Does not know HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from adapthub.runtime.tenants.caller import LOCAL, Caller


@dataclass(frozen=True)
class UsageRecord:
    """What one finished request used. `id`: the request's, as the client saw it; `adapter`: what it ran on, with the
    version that was resolved at admission ("acme/sql@v3", an expression of such, or "" for the base); `outcome`: why it
    ended ("stop", "length", "cancelled", "deadline", "error")."""

    id: str
    when: datetime  # UTC, when it ended
    tenant: str
    kind: str  # "chat", "completion", "embedding", or a task's name
    adapter: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    outcome: str

    @property
    def tokens(self) -> int:
        """What counts against limits: of the prompt, computed anew or not, and of the answer."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Allowance:
    """One of a tenant's limits a minute: of `unit` ("requests", "tokens") it may use `limit`, has `remaining` now, and all
    of them again in `reset` seconds, if it uses none."""

    unit: str
    limit: int
    remaining: int
    reset: float


class Gate(Protocol):
    """What the server asks of tenants."""

    @property
    def open(self) -> bool:
        """Whether there are no tenants, so that no key is asked for."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """Each tenant's share of the engine, for its scheduler: changes as tenants do, and is read without waiting."""
        ...

    def authenticate(self, key: str | None) -> Caller:
        """Whose key it is. Raises Unauthorized for none, an unknown, an expired or a revoked one."""
        ...

    def count(self, caller: Caller) -> None:
        """Take one of the requests that the caller may send a minute, whatever comes of it. Raises RateLimited with the
        seconds after which there is one."""
        ...

    def admit(self, caller: Caller, tokens: int) -> None:
        """Let a request that was counted pass, of about `tokens` tokens (prompt and at most generated), or raise RateLimited
        with the seconds after which it may, QuotaExceeded, InvalidSettings for one that never may, or Overloaded while usage
        cannot be written. What is let pass is recorded once, however it ends: until then it counts as using all of `tokens`.
        """
        ...

    def allowances(self, caller: Caller) -> Sequence[Allowance]:
        """What the caller may use in this minute; nothing of what is not limited."""
        ...

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        """Write down what a request used; it is on disk when this returns. `admitted`: the tokens that `admit` was told,
        of which the unused ones are given back to the tenant's limit. Raises Overloaded where it takes too long, though it
        is still going to be written, and StorageError where it will never be."""
        ...

    def close(self) -> None:
        """Write what is left and let go of files. Idempotent."""
        ...


class OpenGate:
    """A server without tenants."""

    @property
    def open(self) -> bool:
        return True

    @property
    def weights(self) -> Mapping[str, float]:
        return {}

    def authenticate(self, key: str | None) -> Caller:
        return LOCAL

    def count(self, caller: Caller) -> None:
        return None

    def admit(self, caller: Caller, tokens: int) -> None:
        return None

    def allowances(self, caller: Caller) -> Sequence[Allowance]:
        return ()

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        return None

    def close(self) -> None:
        return None
