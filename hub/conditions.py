"""What a list may ask of repositories, a condition at a time. Each can be walked through, and can be held against one.

Exact terms, a namespace, text and a metric; where a base is named by its fingerprint, or the beginning of one, it becomes
the terms that this hub has of it. Decides neither which one is walked through (narrowing) nor in which order (listing).
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, literal, select
from sqlalchemy.orm import Session, aliased

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.storage.tables import MetricRow, RepoRow, TermRow
from adapthub.hub.storage.text import comes_in_order, contains, is_common, text_index

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
_WHOLE = len("sha256:") + 64
_MOST_BASES = 50


@dataclass(frozen=True)
class Keys:
    """The columns that say which repository a list is at: its `id` and its `sequence`; `by_id`: whether the first is known
    before the second is looked up."""

    id: ColumnElement[int] = RepoRow.id.expression
    sequence: ColumnElement[int] = RepoRow.sequence.expression
    by_id: bool = False


class Condition(ABC):
    """One thing that repositories must be."""

    @property
    def by_id(self) -> bool:
        """Whether `rows` gives ids of repositories, and not sequences."""
        return False

    @property
    def is_common(self) -> bool:
        """Whether it is known to hold of many, so that they need not be counted."""
        return False

    @property
    @abstractmethod
    def is_in_order(self) -> bool:
        """Whether an index has `rows` in the order of `repos.sequence`."""

    @abstractmethod
    def rows(self) -> Select[int]:
        """The repositories of which it holds, each once."""

    @abstractmethod
    def holds(self, keys: Keys) -> ColumnElement[bool]:
        """Whether it holds of the repository at `keys`: a look-up, however many it holds of."""


@dataclass(frozen=True)
class HasTerm(Condition):
    """That a repository has one of `terms` of this `kind` (storage/tables.TermRow)."""

    kind: str
    terms: tuple[str, ...]

    @property
    def is_in_order(self) -> bool:
        return len(self.terms) == 1

    def rows(self) -> Select[int]:
        return select(TermRow.sequence).where(TermRow.kind == self.kind, self.is_one(TermRow.term.expression))

    def holds(self, keys: Keys) -> ColumnElement[bool]:
        row = aliased(TermRow)
        of_repo = row.repo_id == keys.id if keys.by_id else row.sequence == keys.sequence
        return looked_up(
            select(literal(1)).where(of_repo, row.kind == self.kind, self.is_one(row.term.expression))
        )

    def is_one(self, term: ColumnElement[str]) -> ColumnElement[bool]:
        """Whether the column `term` is one of the terms."""
        return term == self.terms[0] if len(self.terms) == 1 else term.in_(self.terms)


@dataclass(frozen=True)
class InNamespace(Condition):
    """That a repository is in `namespace`."""

    namespace: str

    @property
    def is_in_order(self) -> bool:
        return True

    def rows(self) -> Select[int]:
        return select(RepoRow.sequence).where(RepoRow.namespace == self.namespace)

    def holds(self, keys: Keys) -> ColumnElement[bool]:
        # Of an expression, for which there is no index: databases would go through the namespace instead.
        return RepoRow.namespace.concat("") == self.namespace


@dataclass(frozen=True)
class HasText(Condition):
    """That each of `words` occurs in the name, card or facts; `common`: in those of many."""

    session: Session
    words: tuple[str, ...]
    common: bool = False

    @property
    def is_common(self) -> bool:
        return self.common

    @property
    def is_in_order(self) -> bool:
        return self.is_common or comes_in_order(self.session)

    def rows(self) -> Select[int]:
        index = text_index(self.session)
        occur = contains(self.session, [*self.words], reading=self.is_common)
        return select(index.key).select_from(index.table).where(*occur)

    def holds(self, keys: Keys) -> ColumnElement[bool]:
        index = text_index(self.session)
        occur = contains(self.session, [*self.words], reading=True)
        return looked_up(
            select(literal(1)).select_from(index.table).where(index.key == keys.sequence, *occur)
        )


@dataclass(frozen=True)
class HasMetric(Condition):
    """That a metric of a repository is as asked; `of_row` says so of a row of `metrics`. `ascending`: less is better."""

    of_row: ColumnElement[bool]
    ascending: bool

    @property
    def by_id(self) -> bool:
        return True

    @property
    def is_in_order(self) -> bool:
        return False

    def rows(self) -> Select[int]:
        return select(MetricRow.repo_id).where(self.of_row)

    def holds(self, keys: Keys) -> ColumnElement[bool]:
        return looked_up(select(literal(1)).where(MetricRow.repo_id == keys.id, self.of_row))


def measured(expression: str) -> HasMetric:
    """What "f1>=0.8" asks. Raises InvalidSettings where it does not read so."""
    match = _METRIC.fullmatch(expression)
    if match is None:
        raise InvalidSettings(
            f"{expression!r} is not a condition on a metric", hint='Write one as in "f1>=0.8" or "loss<0.3".'
        )
    name, sign, number = match.groups()
    of_row = and_(MetricRow.name == name, _COMPARE[sign](MetricRow.value, float(number)))
    return HasMetric(of_row, ascending="<" in sign)


def on_base(session: Session, base: str) -> HasTerm:
    """That a repository's base is `base`: an id, the digest of a fingerprint, or the beginning of one; no term where this
    hub has no such fingerprint. Raises InvalidSettings where it has too many."""
    if not is_fingerprint(base):
        return HasTerm("base", (base,))
    if len(base) == _WHOLE:
        return HasTerm("fingerprint", (base,))
    found: list[str] = []
    last = base
    while len(found) <= _MOST_BASES:  # one step into the index each, however many adapters a base has
        begins = (TermRow.kind == "fingerprint", TermRow.term > last, TermRow.term < f"{base}g")
        following = session.scalar(select(TermRow.term).where(*begins).order_by(TermRow.term).limit(1))
        if following is None:
            return HasTerm("fingerprint", tuple(found))
        found.append(following)
        last = following
    raise InvalidSettings(f"{base} fits more than {_MOST_BASES} bases", hint="Write more digits of it.")


def is_fingerprint(base: str) -> bool:
    """Whether a base is named by the digest of its fingerprint, or the beginning of one, and not by its id."""
    return _FINGERPRINT.fullmatch(base) is not None


def words_of(session: Session, text: str) -> Sequence[HasText]:
    """The condition that each word of `text` occurs; none where there is no word."""
    words = text.split()
    if not contains(session, words):
        return []
    return [HasText(session, tuple(words), is_common(session, words))]


def looked_up(row: Select[int]) -> ColumnElement[bool]:
    """Whether there is such a row. What EXISTS says PostgreSQL would join, and go through all rows of the condition; a value
    it looks up."""
    return row.limit(1).scalar_subquery().is_not(None)
