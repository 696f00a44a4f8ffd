"""The text that searches look through: one row a repository, keyed by its `sequence`, so that matches come newest first.

Trigrams find any substring of three or more characters, in any language, without a scan: an FTS5 table in SQLite, pg_trgm in
PostgreSQL. This module alone knows which. What is shorter is found by marks, which every text carries at its end: each one
and two characters that occur in it, made longer. Text is folded before it is kept and before it is asked for, because
databases do not agree on what upper case is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    Connection,
    MetaData,
    TableClause,
    column,
    delete,
    event,
    func,
    insert,
    select,
    table,
)
from sqlalchemy.orm import Session

_TRIGRAM = 3
_SAMPLE, _COMMON = 1000, 30
_MARK = "\x01"  # no text has it; for both databases it parts words
_DDL = {
    "sqlite": ("CREATE VIRTUAL TABLE repo_text USING fts5(text, tokenize = 'trigram case_sensitive 1')",),
    "postgresql": (
        "CREATE EXTENSION IF NOT EXISTS pg_trgm",
        "CREATE TABLE repo_text (sequence bigint PRIMARY KEY, text text NOT NULL)",
        "CREATE INDEX repo_text_trigrams ON repo_text USING gin (text gin_trgm_ops)",
    ),
}


def create_text_index(connection: Connection) -> None:
    """Make the table. SQLAlchemy has no type that says what it is."""
    for statement in _DDL[connection.dialect.name]:
        connection.exec_driver_sql(statement)


def drop_text_index(connection: Connection) -> None:
    """Drop the table."""
    connection.exec_driver_sql("DROP TABLE repo_text")


def created_with(metadata: MetaData) -> None:
    """Make and drop the text index with the tables of `metadata`."""
    event.listen(metadata, "after_create", lambda _, connection, **__: create_text_index(connection))


class TextIndex(NamedTuple):
    """The table as queries use it: `key` is `repos.sequence`, which a search joins to and sorts by."""

    table: TableClause
    key: ColumnElement[int]
    text: ColumnElement[str]


def _index(key_name: str) -> TextIndex:
    key: ColumnClause[int] = column(key_name)
    text: ColumnClause[str] = column("text")
    return TextIndex(table("repo_text", key, text), key, text)


_INDEXES = {"sqlite": _index("rowid"), "postgresql": _index("sequence")}


def text_index(session: Session) -> TextIndex:
    """The index in the database of `session`."""
    return _INDEXES[_dialect(session)]


def put_text(session: Session, sequence: int, text: str) -> None:
    """Let the repository of that sequence be found by `text`."""
    found = text_index(session)
    session.execute(insert(found.table).values({found.key: sequence, found.text: searchable(text)}))


def put_kept(session: Session, rows: Iterable[tuple[int, str]]) -> None:
    """Put back what an index had: sequences, and texts that `searchable` made."""
    found = text_index(session)
    values = [{found.key: key, found.text: text} for key, text in rows]
    session.execute(insert(found.table).values(values))


def searchable(text: str) -> str:
    """`text` as the index keeps it: folded, and with its marks."""
    folded = _folded(text)
    words = set(folded.split())
    short = {word[at : at + length] for word in words for length in (1, 2) for at in range(len(word))}
    return "".join([folded, *map(_needle, sorted(short)), _MARK])


def forget_text(session: Session, sequence: int) -> None:
    """Let nothing be found at that sequence."""
    found = text_index(session)
    session.execute(delete(found.table).where(found.key == sequence))


def contains(session: Session, words: list[str], *, reading: bool = False) -> list[ColumnElement[bool]]:
    """Conditions on the text index: each of `words` occurs somewhere. `reading`: by the text of every row that is looked at,
    and not by trigrams."""
    text = text_index(session).text
    needles = [_needle(part) for word in words for part in _folded(word).split()]
    if reading:
        place = func.instr if _dialect(session) == "sqlite" else func.strpos
        return [place(text, needle) > 0 for needle in needles]
    if _dialect(session) != "sqlite":
        return [text.contains(needle, autoescape=True) for needle in needles]
    phrases = ['"' + needle.replace('"', '""') + '"' for needle in needles]
    return [text.op("MATCH")(" AND ".join(phrases))] if phrases else []


def is_common(session: Session, words: list[str]) -> bool:
    """Whether so many texts have `words` that PostgreSQL should read one after another until there are enough: the trigrams
    give it all at once, and it cannot tell how many that are. SQLite's index gives one after another."""
    if _dialect(session) == "sqlite":
        return False
    index = text_index(session)
    newest = select(index.key, index.text).select_from(index.table).order_by(index.key.desc()).limit(_SAMPLE)
    sample = newest.subquery()
    occurs = [
        sample.c.text.contains(_needle(part), autoescape=True)
        for word in words
        for part in _folded(word).split()
    ]
    return (session.scalar(select(func.count()).select_from(sample).where(*occurs)) or 0) >= _COMMON


def comes_in_order(session: Session) -> bool:
    """Whether trigrams give rows in the order of their key."""
    return _dialect(session) == "sqlite"


def _needle(word: str) -> str:
    """What to look for in place of a folded word: itself, or its mark, which is as long as a trigram."""
    return word if len(word) >= _TRIGRAM else _MARK * (_TRIGRAM - len(word)) + word


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def _folded(text: str) -> str:
    return text.replace("\0", " ").replace(_MARK, " ").strip().casefold()
