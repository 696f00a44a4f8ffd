"""Pages of repositories: those that meet every condition, newest first or best first, each page by a range of an index.

Whatever is asked is looked up in `terms`, `repo_text`, `metrics` or `repos` (conditions). Where one condition leaves few
repositories, those are walked through (narrowing); else the index whose order the list has, from its end until the page is
full. Either way the other conditions are held against each, so a page costs about the same however many repositories there
are. `search` gives all at once, by name. Does not decide what of a repository is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.orm import Session

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.access import Caller, visible
from adapthub.hub.conditions import (
    Condition,
    HasMetric,
    HasTerm,
    InNamespace,
    Keys,
    measured,
    on_base,
    words_of,
)
from adapthub.hub.narrowing import narrowest
from adapthub.hub.storage.dialects import known_keys
from adapthub.hub.storage.tables import MetricRow, RepoRow

Sort = Literal["modified", "created", "metric"]


@dataclass(frozen=True)
class Query:
    """What a list shows. `tags`: all of them; `terms`: all of these (kind, term) of `terms`; `base`: an id, the digest of a
    fingerprint, or the beginning of one; `text`: each word occurs in the name, card or facts; `metric`: "f1>=0.8", as
    `Registry.search` has it; `gated`: whether it is; `adapters`: only those that have a version.

    Sorted by "metric" the best is first, which needs a `metric`. `after` is the cursor that the page before ended with.
    """

    tags: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    base: str | None = None
    text: str = ""
    metric: str | None = None
    namespace: str | None = None
    gated: bool | None = None
    adapters: bool = False
    sort: Sort = "modified"
    ascending: bool = False
    limit: int = 100
    after: str | None = None


@dataclass(frozen=True)
class Page:
    """The keys of repositories in order, and the cursor that the next page begins after; None where this is the last."""

    ids: Sequence[int]
    next: str | None


def list_repos(session: Session, caller: Caller, query: Query) -> Page:
    """The page of what `caller` may see. Raises InvalidSettings for a `metric`, a `base` or a cursor that does not read."""
    after = None if query.after is None else _place(query.after, query.sort)
    conditions = _conditions(session, query)
    if any(isinstance(condition, HasTerm) and not condition.terms for condition in conditions):
        return Page((), None)
    walk = _walk(session, query, conditions)
    found = walk.found.where(visible(caller), *(other.holds(walk.keys) for other in walk.others))
    if query.gated is not None:
        found = found.where(RepoRow.gated.is_not(None) if query.gated else RepoRow.gated.is_(None))
    if query.adapters:
        found = found.where(RepoRow.newest > 0)
    if after is not None:
        place = tuple_(*walk.places)
        found = found.where(place > after if walk.ascending else place < after)
    found = found.order_by(*(column.asc() if walk.ascending else column.desc() for column in walk.places))
    found = found.with_only_columns(RepoRow.id, *walk.places).limit(query.limit + 1)
    rows = session.execute(found).all()
    page = rows[: query.limit]
    cursor = ":".join(repr(part) for part in page[-1][1:]) if len(rows) > query.limit else None
    return Page([row[0] for row in page], cursor)


def rows_of(session: Session, ids: Sequence[int]) -> list[RepoRow]:
    """The repositories with these keys, in this order."""
    rows = {row.id: row for row in session.scalars(select(RepoRow).where(RepoRow.id.in_(ids)))}
    return [rows[id] for id in ids]


def _conditions(session: Session, query: Query) -> list[Condition]:
    terms = dict.fromkeys([*(("tag", tag) for tag in query.tags), *query.terms])
    found: list[Condition] = [] if query.namespace is None else [InNamespace(query.namespace)]
    found += words_of(session, query.text)
    found += [HasTerm(kind, (term,)) for kind, term in terms]
    if query.base is not None:
        found.append(on_base(session, query.base))
    if query.metric is not None:
        found.append(measured(query.metric))
    return found


@dataclass(frozen=True)
class _Walk:
    """What is gone through, joined to `repos`, and where it is; the columns that it is sorted by; the conditions that are
    still to be held against each."""

    found: Select[Any]
    keys: Keys
    places: Sequence[ColumnElement[Any]]
    ascending: bool
    others: Sequence[Condition]


@dataclass(frozen=True)
class _Few:
    """A condition that holds of few, and the column of their keys."""

    condition: Condition
    key: ColumnElement[int]


def _walk(session: Session, query: Query, conditions: Sequence[Condition]) -> _Walk:
    few: _Few | None = None
    in_order = [one for one in conditions if one.is_in_order and query.sort == "modified"]
    in_order.sort(key=lambda one: one.is_common)  # which holds of the next ones of any other soon enough
    # Counting costs, and of one condition that is in the list's order there is nothing to choose.
    if conditions and not (len(conditions) == len(in_order) == 1):
        rarest, keys = narrowest(session, conditions)
        few = None if keys is None else _Few(rarest, known_keys(session, keys))
    if query.sort == "metric":
        return _best(few, conditions)
    if few is not None:
        found, at = _through(few)
    elif in_order:
        return _newest(in_order[0], query, conditions)
    else:
        found, at = select(RepoRow.id), Keys()
    place = at.sequence if query.sort == "modified" else at.id
    return _Walk(found, at, (place,), query.ascending, _without(conditions, few))


def _best(few: _Few | None, conditions: Sequence[Condition]) -> _Walk:
    """Through the few of which a condition holds, else through a metric from its best value on."""
    metric = next(one for one in conditions if isinstance(one, HasMetric))
    others = _without(conditions, few, metric)
    if few is None:
        at = Keys(id=MetricRow.repo_id.expression, by_id=True)
        found: Select[Any] = select(at.id).join(RepoRow, RepoRow.id == at.id).where(metric.of_row)
        return _Walk(found, at, (MetricRow.value.expression, at.id), metric.ascending, others)
    # The value is looked up: joined, SQLite would go through all of the metric, and through the few for each.
    found, at = _through(few)
    of_repo = select(MetricRow.value).where(MetricRow.repo_id == RepoRow.id, metric.of_row)
    value = of_repo.limit(1).scalar_subquery()
    places = (value, RepoRow.id.expression)
    return _Walk(found.where(value.is_not(None)), at, places, metric.ascending, others)


def _newest(condition: Condition, query: Query, conditions: Sequence[Condition]) -> _Walk:
    """Through those of which a condition holds, in their order."""
    found = condition.rows()
    (sequence,) = found.selected_columns
    if not isinstance(condition, InNamespace):
        found = found.join(RepoRow, RepoRow.sequence == sequence)
    others = _without(conditions, None, condition)
    return _Walk(found, Keys(sequence=sequence), (sequence,), query.ascending, others)


def _through(few: _Few) -> tuple[Select[Any], Keys]:
    """Through the few of which a condition holds, first of all, whatever the database thinks of how many those are."""
    by_id = few.condition.by_id
    own = RepoRow.id if by_id else RepoRow.sequence
    found = select(RepoRow.id).select_from(few.key.table).join(RepoRow, own == few.key)
    return found, Keys(id=few.key, by_id=True) if by_id else Keys(sequence=few.key)


def _without(conditions: Sequence[Condition], few: _Few | None, *met: Condition) -> list[Condition]:
    gone = met if few is None else (few.condition, *met)
    return [one for one in conditions if not any(one is other for other in gone)]


def _place(cursor: str, sort: Sort) -> tuple[float | int, ...]:
    """Where a cursor is, as `list_repos` writes it."""
    number, colon, key = cursor.rpartition(":")
    if key.isascii() and key.isdigit() and len(key) < 19 and bool(colon) == (sort == "metric"):
        try:
            return (float(number), int(key)) if colon else (int(key),)
        except ValueError:
            pass
    raise InvalidSettings(
        f"{cursor[:80]!r} is no cursor of this list", hint="Follow the list's own link, or leave it out."
    )
