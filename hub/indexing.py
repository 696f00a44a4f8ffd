"""What lists and searches look at, kept once a repository: its place in the order, tags and terms, text and metrics.

Written in the transaction of the change that it follows from. Queries are in `listing` and `search`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from adapthub.hub.cards import tags_of
from adapthub.hub.facts import headlines, search_text
from adapthub.hub.records import facts_of
from adapthub.hub.registry import Facts
from adapthub.hub.storage.tables import SEQUENCE, MetricRow, RepoRow, TermRow, VersionRow
from adapthub.hub.storage.text import forget_text, put_text

NOTHING = Facts(None, None, None, None, None, None, ())
PEFT = "peft"
_LONGEST_TERM = 500  # characters: what is longer nobody asks for, and no index of PostgreSQL holds


def next_sequence(session: Session) -> int:
    """A number greater than every repository's `sequence`."""
    if session.get_bind().dialect.name == "sqlite":
        return (session.scalar(select(func.max(RepoRow.sequence))) or 0) + 1
    return int(session.scalar(select(SEQUENCE.next_value())) or 0)


def index(
    session: Session,
    repo: RepoRow,
    version: VersionRow | None,
    *,
    card: str,
    metadata: Mapping[str, Any],
    now: datetime,
) -> None:
    """Let `repo` be found by its newest `version` and by the card on its main branch, as changed last of all."""
    facts = NOTHING if version is None else facts_of(version)
    with session.no_autoflush:  # so that all that changes of the repository is one statement
        before, repo.sequence = repo.sequence, next_sequence(session)
    repo.modified, repo.card = now, dict(metadata)
    library = {} if version is None else {"library_name": PEFT}
    repo.tags = tags_of({**library, **metadata}, base=facts.base, task=facts.task, method=facts.method)
    session.flush()
    _forget(session, repo, before)
    rows = [
        {"kind": kind, "term": term, "sequence": repo.sequence, "repo_id": repo.id}
        for kind, term in terms_of(repo.tags, facts)
    ]
    if rows:
        session.execute(insert(TermRow), rows)
    shown = headlines(facts.metrics)
    measured = [metric for metric in facts.metrics if (metric.split, metric.name) in shown]
    if measured:
        session.execute(
            insert(MetricRow),
            [{"repo_id": repo.id, "name": one.name, "value": one.value} for one in measured],
        )
    message = "" if version is None else version.commit.message
    put_text(session, repo.sequence, search_text(repo.full_name, facts, message, card))


def terms_of(tags: Iterable[str], facts: Facts) -> set[tuple[str, str]]:
    """What a repository is found by exactly, as (kind, term)."""
    terms = {("tag", tag) for tag in tags} | {("label", label) for label in facts.labels or ()}
    terms |= {
        (kind, term)
        for kind, term in (
            ("task", facts.task),
            ("base", facts.base),
            ("fingerprint", facts.base_fingerprint),
            ("method", facts.method),
        )
        if term is not None
    }
    return {(kind, term) for kind, term in terms if len(term) <= _LONGEST_TERM}


def forget(session: Session, repo: RepoRow) -> None:
    """Let nothing find `repo` any more."""
    _forget(session, repo, repo.sequence)


def _forget(session: Session, repo: RepoRow, sequence: int) -> None:
    forget_text(session, sequence)
    session.execute(delete(TermRow).where(TermRow.repo_id == repo.id))
    session.execute(delete(MetricRow).where(MetricRow.repo_id == repo.id))
