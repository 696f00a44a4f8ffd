"""What was used, added up for people: by tenant, adapter, kind and day, between two dates.

Reads the ledger's rows; does not write them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Label, SQLColumnExpression, func, select

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.storage.database import Database
from adapthub.runtime.tenants.tables import MonthRow, UsageRow

_GROUPS: dict[str, SQLColumnExpression[str]] = {
    "tenant": UsageRow.tenant,
    "adapter": UsageRow.adapter,
    "kind": UsageRow.kind,
    "day": func.date(UsageRow.ended),
}
GROUPS = tuple(_GROUPS)
SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


def usage_report(
    database: Database,
    by: Sequence[str] = ("tenant",),
    *,
    tenant: str | None = None,
    first: date | None = None,
    last: date | None = None,
) -> list[dict[str, Any]]:
    """A record for each combination of `by`, some of GROUPS, in that order, with the SUMS of its requests.

    `first` and `last`: days in UTC on which requests ended, both included. `adapter` is "" for the base; `cached_tokens` are
    those of `prompt_tokens` that were not computed anew. Raises InvalidSettings for another group, and for days in the
    wrong order.
    """
    for name in by:
        if name not in _GROUPS:
            raise InvalidSettings(f"usage cannot be added up by {name!r}", hint=did_you_mean(name, GROUPS))
    if first is not None and last is not None and last < first:
        raise InvalidSettings(f"{last} is before {first}", hint="Give the earlier day first.")
    groups: list[Label[str]] = [_GROUPS[name].label(name) for name in dict.fromkeys(by)]
    sums = [func.sum(getattr(UsageRow, name)).label(name) for name in SUMS[1:]]
    query = select(*groups, func.count().label(SUMS[0]), *sums).group_by(*groups).order_by(*groups)
    if tenant is not None:
        query = query.where(UsageRow.tenant == tenant)
    if first is not None:
        query = query.where(UsageRow.ended >= _midnight(first))
    if last is not None and last < date.max:
        query = query.where(UsageRow.ended < _midnight(last + timedelta(days=1)))
    with database.reading() as session:
        found = [dict(row) for row in session.execute(query).mappings()]
    return [row for row in found if row["requests"]]  # without groups SQL counts nothing as one row


def month_totals(database: Database, month: str) -> dict[str, int]:
    """The tokens of prompts and answers of every tenant that used some in `month`, "2026-11"."""
    with database.reading() as session:
        query = select(MonthRow.tenant, MonthRow.tokens).where(MonthRow.month == month)
        return {row.tenant: row.tokens for row in session.execute(query)}


def as_csv(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The `columns` of `records` as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
