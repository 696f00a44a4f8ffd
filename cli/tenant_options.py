"""What the commands of `adapt tenant` share: durations and limits as people write them, names for shells, records.

Does not open a store until a shell asks for names.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from adapthub.runtime.tenants.tenant import Key, Tenant

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """`90d`, `12h`: a whole number and a unit."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration. Write 90d, 12h, 30m, 45s or 2w.")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than time goes. Write up to 36500d.") from None


def limit_or_none(text: str) -> int | str:
    """A whole number, or `none` for no limit."""
    if text == "none":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a whole number. Write one, or none for no limit."
        ) from None


def complete_tenants(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of tenants."""
    from adapthub.runtime.tenants.store import TenantStore

    return [tenant.name for tenant in TenantStore.open().tenants() if tenant.name.startswith(incomplete)]


def complete_keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Prefixes of the keys of the tenant named before."""
    from adapthub.runtime.tenants.store import TenantStore

    keys = TenantStore.open().keys(context.params["name"])
    return [key.prefix for key in keys if key.prefix.startswith(incomplete)]


def tenant_record(tenant: Tenant, used: int) -> dict[str, Any]:
    """One tenant; `used_this_month`: its tokens, of prompts and answers, in this calendar month, UTC."""
    record = asdict(tenant)
    created = record.pop("created").isoformat()
    return {**record, "allow": [*tenant.allow], "used_this_month": used, "created": created}


def key_record(key: Key, now: datetime) -> dict[str, Any]:
    """One key, without anything that would let somebody in; times in ISO 8601, UTC."""
    return {
        "prefix": key.prefix,
        "tenant": key.tenant,
        "state": key.state(now),
        "created": key.created.isoformat(),
        "expires": key.expires.isoformat() if key.expires is not None else None,
        "revoked": key.revoked.isoformat() if key.revoked is not None else None,
    }


def for_people(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same record with its times to the minute."""
    times = {name: record[name] for name in ("created", "expires", "revoked") if record.get(name)}
    return {**record, **{name: time[:16].replace("T", " ") for name, time in times.items()}}
