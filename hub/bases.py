"""The bases that a hub knows: records of their modules and fingerprints, which adapters are held against when they are
published. Knows no adapter (fitting), and never sees a base's weights.

Every function runs inside a transaction of the database's.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, defer

from adapthub.adapters.base_record import KnownBase
from adapthub.adapters.errors import AdmissionError, BaseNotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.events import happened
from adapthub.hub.facts import is_unicode
from adapthub.hub.records import bare_digest
from adapthub.hub.storage.knowledge_tables import BaseModelRow
from adapthub.hub.storage.types import hex_range

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{7,64})")
_SUGGEST_AMONG = 1000


@dataclass(frozen=True)
class ListedBase:
    """A base in a list: how it is called, the digest of its fingerprint ("sha256:<hex>"), and when it was recorded (UTC)."""

    id: str
    revision: str | None
    digest: str
    model_type: str
    added: datetime


def add_base(session: Session, record: KnownBase, *, actor: Actor = MACHINE) -> ListedBase:
    """Know a base from now on; an earlier record of the same fingerprint is replaced. What was published before keeps its
    verdict. Raises AdmissionError for names that no database can hold."""
    for text in (record.id, record.revision or "", record.model_type):
        if not is_unicode(text):
            raise AdmissionError(f"{text!r} in the record of the base is not valid Unicode text")
    digest = bare_digest(record.fingerprint.digest)
    session.execute(delete(BaseModelRow).where(BaseModelRow.digest == digest))
    row = BaseModelRow(
        digest=digest,
        name=record.id,
        revision=record.revision,
        model_type=record.model_type,
        added=datetime.now(UTC),
        document=zlib.compress(record.to_json()),
    )
    session.add(row)
    session.flush()
    happened(session, actor, "base.added", base=row.name, digest=f"sha256:{row.digest}")
    return _listed(row)


def remove_base(session: Session, name: str, *, actor: Actor = MACHINE) -> ListedBase:
    """Forget a base; what was published keeps its verdict. Raises BaseNotFound."""
    row = _require(session, name)
    session.delete(row)
    happened(session, actor, "base.removed", base=row.name, digest=f"sha256:{row.digest}")
    return _listed(row)


def list_bases(session: Session) -> list[ListedBase]:
    """Every base, by name, those recorded last first."""
    query = select(BaseModelRow).order_by(BaseModelRow.name, BaseModelRow.id.desc())
    return [_listed(row) for row in session.scalars(query.options(defer(BaseModelRow.document)))]


def show_base(session: Session, name: str) -> tuple[ListedBase, KnownBase]:
    """The base `name`: a digest, the beginning of one, or an id, which means what was recorded last under it. Raises
    BaseNotFound."""
    row = _require(session, name)
    return _listed(row), _parsed(row.document)


def with_fingerprint(session: Session, digest: str) -> KnownBase | None:
    """The record of the base whose fingerprint has this digest, if there is one."""
    query = select(BaseModelRow.document).where(BaseModelRow.digest == bare_digest(digest))
    document = session.scalar(query)
    return None if document is None else _parsed(document)


def called(session: Session, name: str, *, most: int) -> Sequence[KnownBase]:
    """The bases that were recorded under the id `name`, the last first, at most so many."""
    query = select(BaseModelRow.document).where(BaseModelRow.name == name)
    return [
        _parsed(document) for document in session.scalars(query.order_by(BaseModelRow.id.desc()).limit(most))
    ]


def _require(session: Session, name: str) -> BaseModelRow:
    found = session.scalars(
        select(BaseModelRow).where(BaseModelRow.name == name).order_by(BaseModelRow.id.desc()).limit(1)
    ).all()
    if not found and (digits := _DIGEST.fullmatch(name)):
        found = session.scalars(
            select(BaseModelRow).where(BaseModelRow.digest.between(*hex_range(digits[1], 64))).limit(2)
        ).all()
    if len(found) == 1:
        return found[0]
    if found:
        raise BaseNotFound(f"{name} fits more than one base of this hub", hint="Write more digits of it.")
    names = session.scalars(select(BaseModelRow.name).distinct().limit(_SUGGEST_AMONG)).all()
    raise BaseNotFound(f"this hub knows no base {name[:120]!r}", hint=did_you_mean(name, names))


@lru_cache(maxsize=8)
def _parsed(document: bytes) -> KnownBase:
    return KnownBase.from_json(zlib.decompress(document), "the record of a base")


def _listed(row: BaseModelRow) -> ListedBase:
    return ListedBase(row.name, row.revision, f"sha256:{row.digest}", row.model_type, row.added)
