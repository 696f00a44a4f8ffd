"""Tenants and their keys, kept in SQLite: any process may change them at any time, and a server that runs sees it soon.

    store = TenantStore.open()
    key = store.add(Tenant("acme", ("acme/*",), created=now)).text     # the only time that anybody sees it

Every change is one transaction and raises the revision, so that a reader can tell cheaply whether anything changed. Does not
decide who may do what (gate) or hold usage (ledger).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session, selectinload

from adapthub.adapters.errors import Conflict, InvalidSettings, NotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.storage.database import Database
from adapthub.runtime.tenants.keys import hash_of, new_key, prefix_meant, prefix_of
from adapthub.runtime.tenants.tables import SCHEMA, KeyRow, StateRow, TenantRow, default_path
from adapthub.runtime.tenants.tenant import Directory, Key, NewKey, Tenant

GRACE = timedelta(hours=24)
_LONGEST = timedelta(days=36525)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TenantStore:
    """The tenants in one database. `now`: the time, UTC. Every call raises StorageError where the file cannot be used."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = _utc_now) -> None:
        self._database = database
        self._now = now

    @classmethod
    def open(cls, path: Path | None = None) -> TenantStore:
        """The store at `path` (default: in AdaptHub's home), made if it is not there."""
        return cls(Database(path or default_path(), SCHEMA))

    def tenants(self) -> list[Tenant]:
        """All tenants by name."""
        with self._database.reading() as session:
            return [_tenant(row) for row in session.scalars(select(TenantRow).order_by(TenantRow.name))]

    def get(self, name: str) -> Tenant:
        """Raises NotFound, suggesting near names."""
        with self._database.reading() as session:
            return _tenant(_require(session, name))

    def add(self, tenant: Tenant, *, lifetime: timedelta | None = None) -> NewKey:
        """A new tenant and its first key, which works for `lifetime`, or for ever. Raises Conflict for a name that is
        taken."""
        with self._changing() as session:
            if _find(session, tenant.name) is not None:
                raise Conflict(
                    f"there is a tenant {tenant.name} already",
                    hint=f"Give it another key with adapt tenant key add {tenant.name}.",
                )
            row = TenantRow(**_columns(tenant))
            session.add(row)
            return self._issue(session, row, lifetime)

    def change(self, name: str, **changes: Any) -> Tenant:
        """Give a tenant other values of the fields in `changes`, named as in Tenant. Raises NotFound, InvalidSettings."""
        with self._changing() as session:
            row = _require(session, name)
            tenant = replace(_tenant(row), **changes)
            for column, value in _columns(tenant).items():
                setattr(row, column, value)
            return tenant

    def remove(self, name: str) -> None:
        """Forget a tenant and its keys; what it used stays in the ledger. Raises NotFound."""
        with self._changing() as session:
            session.delete(_require(session, name))

    def keys(self, name: str) -> list[Key]:
        """A tenant's keys, also those that no longer work, oldest first. Raises NotFound."""
        with self._database.reading() as session:
            return [_key(row) for row in _require(session, name).keys]

    def add_key(self, name: str, *, lifetime: timedelta | None = None) -> NewKey:
        """One more key. Raises NotFound."""
        with self._changing() as session:
            return self._issue(session, _require(session, name), lifetime)

    def revoke(self, name: str, key: str) -> Key:
        """End a key at once, named by its prefix. Idempotent. Raises NotFound."""
        with self._changing() as session:
            row = _require_key(_require(session, name), key)
            row.revoked = row.revoked or self._now()
            return _key(row)

    def rotate(
        self,
        name: str,
        key: str | None = None,
        *,
        grace: timedelta = GRACE,
        lifetime: timedelta | None = None,
    ) -> NewKey:
        """A new key in place of one that works, which goes on working for `grace` at most.

        `key`: its prefix; without one it is the only one that works. `lifetime`: how long the new one works; without one
        as long as the old one was meant to. Raises NotFound, Conflict where several or none work, InvalidSettings.
        """
        if not timedelta(0) <= grace <= _LONGEST:
            raise InvalidSettings(f"a grace period cannot be {grace}", hint="Give 0 seconds to 100 years.")
        with self._changing() as session:
            tenant = _require(session, name)
            old = self._only_working(tenant) if key is None else _require_key(tenant, key)
            if (state := _key(old).state(self._now())) != "works":
                raise Conflict(
                    f"the key {old.prefix} is {state}, so there is nothing to rotate",
                    hint=f"Make a new one with adapt tenant key add {name}.",
                )
            if lifetime is None and old.expires is not None:
                lifetime = old.expires - old.created
            end = self._now() + grace
            old.expires = end if old.expires is None else min(old.expires, end)
            return self._issue(session, tenant, lifetime)

    def directory(self, known: Directory) -> Directory:
        """All tenants and keys as they are now: `known` itself where nothing changed since it was read."""
        with self._database.reading() as session:
            revision = session.scalars(select(StateRow.revision)).one()
            if revision == known.revision:
                return known
            rows = session.scalars(select(TenantRow).options(selectinload(TenantRow.keys))).all()
            return Directory(
                revision,
                {row.name: _tenant(row) for row in rows},
                {key.prefix: _key(key) for row in rows for key in row.keys},
            )

    @contextmanager
    def _changing(self) -> Iterator[Session]:
        with self._database.writing() as session:
            yield session
            session.execute(update(StateRow).values(revision=StateRow.revision + 1))

    def _issue(self, session: Session, tenant: TenantRow, lifetime: timedelta | None) -> NewKey:
        if lifetime is not None and not timedelta(0) < lifetime <= _LONGEST:
            raise InvalidSettings(
                f"a key cannot work for {lifetime}", hint="Give up to 100 years, or no end."
            )
        text = new_key()
        while session.get(KeyRow, prefix_of(text)) is not None:  # one in 3e12
            text = new_key()
        now = self._now()
        expires = None if lifetime is None else now + lifetime
        row = KeyRow(prefix=prefix_of(text), hash=hash_of(text), tenant=tenant, created=now, expires=expires)
        session.add(row)
        return NewKey(_key(row), text)

    def _only_working(self, tenant: TenantRow) -> KeyRow:
        working = [key for key in tenant.keys if _key(key).state(self._now()) == "works"]
        if len(working) == 1:
            return working[0]
        named = ", ".join(key.prefix for key in working)
        raise Conflict(
            f"{tenant.name} has {len(working) or 'no'} keys that work{f': {named}' if named else ''}",
            hint="Say which one." if named else f"Make one with adapt tenant key add {tenant.name}.",
        )


def _find(session: Session, name: str) -> TenantRow | None:
    if not name.isascii():  # nor may it be text that SQLite can hold
        return None
    return session.scalar(select(TenantRow).where(TenantRow.name == name))


def _require(session: Session, name: str) -> TenantRow:
    row = _find(session, name)
    if row is None:
        known = session.scalars(select(TenantRow.name)).all()
        hint = did_you_mean(name, known) or "adapt tenant list shows them; adapt tenant add makes one."
        raise NotFound(f"there is no tenant {name[:80]!r}", hint=hint)
    return row


def _require_key(tenant: TenantRow, named: str) -> KeyRow:
    prefix = prefix_meant(named)
    for row in tenant.keys:
        if row.prefix == prefix:
            return row
    known = [row.prefix for row in tenant.keys]
    # Not `named`: it may be a key of somebody else's.
    raise NotFound(
        f"{tenant.name} has no key {prefix or 'of that name'}", hint=did_you_mean(prefix or "", known)
    )


def _columns(tenant: Tenant) -> dict[str, Any]:
    return asdict(tenant) | {"allow": [*tenant.allow]}


def _tenant(row: TenantRow) -> Tenant:
    return Tenant(
        row.name,
        tuple(row.allow),
        row.created,
        row.admin,
        row.weight,
        row.requests_per_minute,
        row.tokens_per_minute,
        row.tokens_per_month,
    )


def _key(row: KeyRow) -> Key:
    return Key(row.prefix, row.hash, row.tenant.name, row.created, row.expires, row.revoked)
