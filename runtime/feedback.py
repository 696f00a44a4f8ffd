"""What users said of answers, and, where an administrator wants it, what was asked and answered: in SQLite, for training.

Without the log of requests a rating is kept with the request's id and nothing else: no text. Does not know HTTP or redact
(redaction does).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, Engine, create_engine, event, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from adapthub.adapters.errors import StorageError
from adapthub.adapters.home import home, unusable


@dataclass(frozen=True)
class Logged:
    """One request with its texts. `kind`: "chat", "completion" or a task's name; `adapter` with its version; `output`: the
    answer as JSON has it."""

    request_id: str
    tenant: str
    kind: str
    adapter: str
    input: str
    output: Any


@dataclass(frozen=True)
class Rating:
    """What a user said of one answer. `rating`: from -1 to 1; `correction`: what the answer should have been, a text, a
    label or a list of entities."""

    request_id: str
    tenant: str
    rating: float
    correction: Any = None
    comment: str | None = None


@dataclass(frozen=True)
class Feedback:
    """A rating, and the request that it is of where that was logged."""

    when: datetime  # UTC, of the rating
    rating: Rating
    request: Logged | None


class _Base(DeclarativeBase):
    type_annotation_map = {Any: JSON}  # noqa: RUF012 (SQLAlchemy wants a plain dict)


class _RequestRow(_Base):
    __tablename__ = "requests"

    request_id: Mapped[str] = mapped_column(primary_key=True)
    when: Mapped[datetime]
    tenant: Mapped[str]
    kind: Mapped[str]
    adapter: Mapped[str]
    input: Mapped[str]
    output: Mapped[Any]


class _RatingRow(_Base):
    __tablename__ = "ratings"

    request_id: Mapped[str] = mapped_column(primary_key=True)
    when: Mapped[datetime]
    tenant: Mapped[str]
    rating: Mapped[float]
    correction: Mapped[Any | None]
    comment: Mapped[str | None]


class FeedbackStore:
    """The file at `path`, by default in AdaptHub's home; made when something is first written. Safe to use from several
    threads and processes. Every call raises StorageError where the file cannot be used."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "feedback.sqlite"
        self._engine: Engine | None = None

    def log(self, request: Logged) -> None:
        """Keep a request with its texts."""
        with self._writing() as session:
            session.add(_RequestRow(**asdict(request), when=_now()))

    def rate(self, rating: Rating) -> None:
        """Keep a rating; what was said of the same request before is replaced."""
        values = asdict(rating) | {"when": _now()}
        statement = insert(_RatingRow).values(**values)
        with self._writing() as session:
            session.execute(statement.on_conflict_do_update(index_elements=["request_id"], set_=values))

    def request(self, request_id: str) -> Logged | None:
        """A request that was logged."""
        if not self.path.exists():
            return None
        with self._session() as session:
            row = session.get(_RequestRow, request_id)
            return None if row is None else _logged(row)

    def all(self) -> list[Feedback]:
        """Everything that was rated, the latest last."""
        if not self.path.exists():
            return []
        with self._session() as session:
            rows = session.execute(
                select(_RatingRow, _RequestRow)
                .outerjoin(_RequestRow, _RatingRow.request_id == _RequestRow.request_id)
                .order_by(_RatingRow.when)
            )
            return [
                Feedback(
                    rating.when.replace(tzinfo=UTC),
                    Rating(
                        rating.request_id, rating.tenant, rating.rating, rating.correction, rating.comment
                    ),
                    None if request is None else _logged(request),
                )
                for rating, request in rows
            ]

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with self._session() as session, session.begin():
            yield session

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            if self._engine is None:
                self._engine = _open(self.path)
            with Session(self._engine) as session:
                yield session
        except DatabaseError as error:
            raise StorageError(
                f"the feedback in {self.path} failed: {error.orig}", hint="Check free space and permissions."
            ) from error
        except OSError as error:
            raise unusable(self.path.parent, error) from error


def _open(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite+pysqlite", database=str(path))
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 30.0})
    event.listen(engine, "connect", _configure)
    _Base.metadata.create_all(engine)
    return engine


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _logged(row: _RequestRow) -> Logged:
    return Logged(row.request_id, row.tenant, row.kind, row.adapter, row.input, row.output)
