"""A hub's schema: all its tables, and how a database of an older one is brought up to it. Tables that a module of its own
declares are imported here, so that whoever opens a hub's database has them all.
"""

from __future__ import annotations

from adapthub.hub.storage.account_tables import AccountRow
from adapthub.hub.storage.database import Schema
from adapthub.hub.storage.governance_tables import AuditRow
from adapthub.hub.storage.knowledge_tables import KnowledgeRow
from adapthub.hub.storage.migrations import upgrade
from adapthub.hub.storage.tables import SCHEMA, Base, SchemaRow
from adapthub.hub.storage.text import created_with
from adapthub.hub.storage.upkeep_tables import SentRow

_EVERY_MODULE = (AccountRow, AuditRow, KnowledgeRow, SentRow)

created_with(Base.metadata)

# Private: it has webhooks' secrets, and what is not for everybody on this machine.
HUB = Schema(
    "hub", Base.metadata, Base.metadata.tables[SchemaRow.__tablename__], SCHEMA, private=True, upgrade=upgrade
)
