"""What each tenant may use now: its buckets for a minute, and its month against its quota.

A request is counted when it comes, whatever becomes of it: refusing costs something too. It is admitted with the most that
it may use; what it did not use is given back when it ends. Until then that counts against the quota in full, so that
requests side by side never use more than there is. Buckets are this process's own: they
are full after a restart, and each server of several has its own. Months are the ledger's. Does not read keys or databases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from threading import Lock

from adapthub.adapters.errors import InvalidSettings, QuotaExceeded, RateLimited
from adapthub.runtime.tenants.gate import Allowance
from adapthub.runtime.tenants.limits import Bucket
from adapthub.runtime.tenants.tenant import Tenant

_RUNNING_ENDS = 1.0  # seconds after which to ask again where only requests that run stand in the way


def month_of(when: datetime) -> str:
    """The calendar month of a time, UTC: "2026-11"."""
    return f"{when.astimezone(UTC):%Y-%m}"


def next_month(when: datetime) -> datetime:
    """When the calendar month of `when` ends, UTC."""
    utc = when.astimezone(UTC)
    return datetime(utc.year + utc.month // 12, utc.month % 12 + 1, 1, tzinfo=UTC)


class _Account:
    def __init__(self) -> None:
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.month = ""
        self.recorded = 0  # tokens in the ledger of `month`
        self.in_flight = 0  # tokens of requests that were admitted and have not ended


class Accounts:
    """The accounts of all tenants of one server, by name. Thread-safe.

    `clock`: seconds, for buckets; `now`: the time in UTC, for months.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self._now = now
        self._lock = Lock()
        self._accounts: dict[str, _Account] = {}

    def count(self, tenant: Tenant) -> None:
        """Take one request out of the minute. Raises RateLimited with the seconds until there is one, and takes nothing."""
        with self._lock:
            account, now = self._account(tenant.name), self._clock()
            account.requests = _sized(account.requests, tenant.requests_per_minute, now)
            _take(tenant, account.requests, 1, "requests", now)

    def admit(self, tenant: Tenant, tokens: int) -> None:
        """Take `tokens` tokens, what a request may use at most, out of the minute and the month, or nothing out of either.

        Raises RateLimited with the seconds until the same request may pass, QuotaExceeded with those until the next month,
        and InvalidSettings for one that is larger than the tenant's limit as a whole, which no waiting helps.
        """
        _check_fits(tenant, tokens)
        with self._lock:
            account = self._account(tenant.name)
            self._check_month(tenant, account, tokens)
            now = self._clock()
            account.tokens = _sized(account.tokens, tenant.tokens_per_minute, now)
            _take(tenant, account.tokens, tokens, "tokens", now)
            account.in_flight += tokens

    def allowances(self, tenant: Tenant) -> list[Allowance]:
        """What is in the minute's buckets of a tenant; nothing for what is not limited."""
        with self._lock:
            account, now = self._account(tenant.name), self._clock()
            account.requests = _sized(account.requests, tenant.requests_per_minute, now)
            account.tokens = _sized(account.tokens, tenant.tokens_per_minute, now)
            buckets = {"requests": account.requests, "tokens": account.tokens}
            return [
                Allowance(unit, bucket.capacity, max(0, int(bucket.level(now))), bucket.until_full(now))
                for unit, bucket in buckets.items()
                if bucket is not None
            ]

    def settle(self, tenant: str, admitted: int, used: int) -> None:
        """A request that was admitted with `admitted` tokens ended and used `used`: the others are given back."""
        with self._lock:
            account = self._account(tenant)
            account.in_flight -= admitted
            if account.tokens is not None:
                account.tokens.take(used - admitted, self._clock())

    def see(self, month: str, recorded: Mapping[str, int]) -> None:
        """What the ledger has of `month`, by tenant. It only grows, so that an older reading changes nothing."""
        with self._lock:
            for tenant, tokens in recorded.items():
                account = self._account(tenant)
                if account.month == month:
                    account.recorded = max(account.recorded, tokens)

    def _account(self, tenant: str) -> _Account:
        """The account of a tenant, turned to this month."""
        account = self._accounts.setdefault(tenant, _Account())
        month = month_of(self._now())
        if account.month != month:
            account.month, account.recorded = month, 0
        return account

    def _check_month(self, tenant: Tenant, account: _Account, tokens: int) -> None:
        quota = tenant.tokens_per_month
        if quota is None or account.recorded + account.in_flight + tokens <= quota:
            return
        left = max(0, quota - account.recorded)
        if tokens <= left:
            raise RateLimited(
                f"requests of {tenant.name} that still run may use the last {left:,} of this month's {quota:,} tokens",
                hint="Send it again when they have ended.",
                retry_after=_RUNNING_ENDS,
            )
        now = self._now()
        end = next_month(now)
        raise QuotaExceeded(
            f"{tenant.name} has {left:,} of this month's {quota:,} tokens left, and this may use {tokens:,}",
            hint=f"Wait until {end:%Y-%m-%d} UTC{', or ask for fewer tokens' if left else ''}.",
            retry_after=(end - now).total_seconds(),
        )


def _take(tenant: Tenant, bucket: Bucket | None, amount: int, unit: str, now: float) -> None:
    """Out of the bucket of a limit, None where there is no limit. Raises RateLimited."""
    if bucket is None:
        return
    if seconds := bucket.wait(amount, now):
        raise RateLimited(
            f"{tenant.name} may use {bucket.capacity:,} {unit} a minute",
            hint=f"Send it again in {seconds:.1f} s.",
            retry_after=seconds,
        )
    bucket.take(amount, now)


def _check_fits(tenant: Tenant, tokens: int) -> None:
    for limit, period in ((tenant.tokens_per_minute, "minute"), (tenant.tokens_per_month, "month")):
        if limit is not None and tokens > limit:
            raise InvalidSettings(
                f"this request may use {tokens:,} tokens, prompt and answer, and {tenant.name} has {limit:,} a {period}",
                hint="It can never pass: ask for a shorter answer (max_tokens), or send a shorter prompt.",
            )


def _sized(bucket: Bucket | None, capacity: int | None, now: float) -> Bucket | None:
    """The bucket of a limit as it is now; None where there is no limit."""
    if capacity is None:
        return None
    if bucket is None:
        return Bucket(capacity)
    if bucket.capacity != capacity:
        bucket.resize(capacity, now)
    return bucket
