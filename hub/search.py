"""Which adapters a list or a search shows: their newest versions, filtered by the database's indexes.

The meaning of each condition is stated on `Registry.search`. Ranks nothing but metrics, and guesses no
spelling.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, column, select, table
from sqlalchemy.orm import Session, contains_eager, joinedload, selectinload

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.records import entry_of
from adapthub.hub.registry import Entry
from adapthub.hub.storage.tables import AdapterRow, AliasRow, LabelRow, MetricRow, VersionRow

_METRIC = re.compile(
    r"\s*([^\s<>=]+)\s*(>=|<=|==|>|<|=)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "=": operator.eq,
}
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{7,64}")
_TRIGRAM = 3
TEXT = table("adapter_text", column("rowid"), column("text"))


def list_entries(session: Session, namespace: str | None) -> list[Entry]:
    """Every adapter, or those of one namespace, by name."""
    query = _newest()
    if namespace is not None:
        query = query.where(AdapterRow.namespace == namespace)
    return _entries(session, query.order_by(AdapterRow.namespace, AdapterRow.name))


def search_entries(
    session: Session,
    text: str | None = None,
    *,
    base: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    method: str | None = None,
    label: str | None = None,
) -> list[Entry]:
    """Adapters whose newest version meets every condition that is given. Raises InvalidSettings for
    `metric`."""
    query = _newest()
    if base is not None:
        query = query.where(_has_base(base))
    if task is not None:
        query = query.where(VersionRow.task == task)
    if method is not None:
        query = query.where(VersionRow.method == method)
    if label is not None:
        query = query.where(VersionRow.id.in_(select(LabelRow.version_id).where(LabelRow.label == label)))
    for word in (text or "").split():
        query = query.where(AdapterRow.id.in_(select(TEXT.c.rowid).where(_contains(word))))
    if metric is not None:
        query = _measured(query, metric)
    return _entries(session, query.order_by(AdapterRow.namespace, AdapterRow.name))


def _newest() -> Select[AdapterRow, VersionRow]:
    is_newest = and_(VersionRow.adapter_id == AdapterRow.id, VersionRow.number == AdapterRow.newest)
    return select(AdapterRow, VersionRow).join(VersionRow, is_newest)


def _entries(session: Session, query: Select[AdapterRow, VersionRow]) -> list[Entry]:
    query = query.options(
        contains_eager(VersionRow.adapter),
        selectinload(VersionRow.labels),
        selectinload(VersionRow.metrics),
        selectinload(AdapterRow.aliases).options(joinedload(AliasRow.version)),
    )
    return [entry_of(adapter, version) for adapter, version in session.execute(query)]


def _has_base(base: str) -> ColumnElement[bool]:
    if _FINGERPRINT.fullmatch(base):
        return and_(VersionRow.base_fingerprint >= base, VersionRow.base_fingerprint < f"{base}g")
    return VersionRow.base == base


def _contains(word: str) -> ColumnElement[bool]:
    word = word.replace("\0", "")
    if len(word) < _TRIGRAM:  # too short for the index: a scan
        return TEXT.c.text.contains(word, autoescape=True)
    quoted = word.replace('"', '""')
    return TEXT.c.text.op("MATCH")(f'"{quoted}"')


def _measured(query: Select[AdapterRow, VersionRow], expression: str) -> Select[AdapterRow, VersionRow]:
    match = _METRIC.fullmatch(expression)
    if match is None:
        raise InvalidSettings(
            f"{expression!r} is not a condition on a metric", hint='Write one as in "f1>=0.8" or "loss<0.3".'
        )
    name, sign, number = match.groups()
    holds = _COMPARE[sign](MetricRow.value, float(number))
    of_version = and_(MetricRow.version_id == VersionRow.id, MetricRow.name == name, MetricRow.headline)
    best_first = MetricRow.value.asc() if "<" in sign else MetricRow.value.desc()
    return query.join(MetricRow, of_version).where(holds).order_by(best_first)
