"""What users said of answers, and, where an administrator wants it, what was asked and answered: in SQLite, for training.

Without the log of requests a rating is kept with the request's id and nothing else: no text. Does not know HTTP or redact
(redaction does).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from adapthub.adapters.home import home
from adapthub.hub.storage.database import Database, Schema
from adapthub.hub.storage.types import UtcDateTime

_BUSY = 5.0  # seconds that a writer waits for others


@dataclass(frozen=True)
class Logged:
    """One request with its texts. `kind`: "chat", "completion" or a task's name; `adapter` with its version; `output`: the
    answer as JSON has it; `labels`: those that the adapter may answer with, where it answers with labels."""

    request_id: str
    tenant: str
    kind: str
    adapter: str
    input: str
    output: Any
    labels: tuple[str, ...] = ()


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
    type_annotation_map = {Any: JSON, datetime: UtcDateTime}  # noqa: RUF012 (SQLAlchemy wants a plain dict)


class _StateRow(_Base):
    """The one row that says which version of the tables this is."""

    __tablename__ = "feedback_state"

    version: Mapped[int] = mapped_column(primary_key=True)


class _RequestRow(_Base):
    __tablename__ = "requests"

    request_id: Mapped[str] = mapped_column(primary_key=True)
    when: Mapped[datetime]
    tenant: Mapped[str]
    kind: Mapped[str]
    adapter: Mapped[str]
    input: Mapped[str]
    output: Mapped[Any]
    labels: Mapped[Any]


class _RatingRow(_Base):
    __tablename__ = "ratings"

    request_id: Mapped[str] = mapped_column(primary_key=True)
    when: Mapped[datetime]
    tenant: Mapped[str]
    rating: Mapped[float]
    correction: Mapped[Any | None]
    comment: Mapped[str | None]


_SCHEMA = Schema("feedback", _Base.metadata, _Base.metadata.tables[_StateRow.__tablename__], 1, private=True)


class FeedbackStore:
    """The file at `path`, by default in AdaptHub's home; made when something is first written. Safe to use from several
    threads and processes. Every call raises StorageError where the file cannot be used."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "feedback.sqlite"

    def log(self, request: Logged) -> None:
        """Keep a request with its texts."""
        with self._database.writing() as session:
            session.add(_RequestRow(**asdict(request), when=datetime.now(UTC)))

    def rate(self, rating: Rating) -> None:
        """Keep a rating; what was said of the same request before is replaced."""
        values = asdict(rating) | {"when": datetime.now(UTC)}
        statement = insert(_RatingRow).values(**values)
        with self._database.writing() as session:
            session.execute(statement.on_conflict_do_update(index_elements=["request_id"], set_=values))

    def request(self, request_id: str) -> Logged | None:
        """A request that was logged."""
        if not self.path.exists():
            return None
        with self._database.reading() as session:
            row = session.get(_RequestRow, request_id)
            return None if row is None else _logged(row)

    def all(self) -> list[Feedback]:
        """Everything that was rated, the latest last."""
        if not self.path.exists():
            return []
        with self._database.reading() as session:
            rows = session.execute(
                select(_RatingRow, _RequestRow)
                .outerjoin(_RequestRow, _RatingRow.request_id == _RequestRow.request_id)
                .order_by(_RatingRow.when)
            )
            return [
                Feedback(
                    rating.when,
                    Rating(
                        rating.request_id, rating.tenant, rating.rating, rating.correction, rating.comment
                    ),
                    None if request is None else _logged(request),
                )
                for rating, request in rows
            ]

    @cached_property
    def _database(self) -> Database:
        return Database(self.path, _SCHEMA, busy_seconds=_BUSY)


def _logged(row: _RequestRow) -> Logged:
    return Logged(row.request_id, row.tenant, row.kind, row.adapter, row.input, row.output, tuple(row.labels))
