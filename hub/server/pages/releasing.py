"""Whether the version that a page shows may be released: who signed it, who approved it, and what the gates of the name
still ask for before an alias moves to it. Decides nothing (gates and signing do)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Forbidden, SignatureError, Unauthorized
from adapthub.hub import gates
from adapthub.hub.access import Caller, require_role
from adapthub.hub.gates import Gate
from adapthub.hub.namespace_keys import keys_of
from adapthub.hub.signatures import digests_of, files_of_version, signature_of
from adapthub.hub.storage.tables import AliasRow, VersionRow
from adapthub.hub.store import Store

_MOST = 20


@dataclass(frozen=True)
class Signature:
    """A signature over exactly the version's files, or what is wrong with it (`wrong`). `key` is the name that the namespace
    knows the key by, None where it knows no such key; `key_id` is the one that the signature names."""

    key: str | None
    key_id: str | None
    wrong: str | None = None


@dataclass(frozen=True)
class Guarded:
    """An alias that a gate guards, or a pattern of aliases that there are none of yet.

    `number`: the version that it means now. `asks`: what the gates ask for, in words, for those who may see them; others see
    that there is a gate. `unmet`: what of it does not hold for the version that is shown, None where it is not asked: the
    alias is there already, `alias` is a pattern, or the reader may not see it.
    """

    alias: str
    number: int | None
    asks: tuple[str, ...]
    unmet: tuple[str, ...] | None


@dataclass(frozen=True)
class Release:
    """Of one version. `guarded` has at most 20. `approvals`: for those who may see what gates ask for."""

    signature: Signature | None = None
    approvals: Sequence[str] = ()
    guarded: Sequence[Guarded] = ()


def read_release(store: Store, caller: Caller, key: int | None) -> Release:
    """Of the version with that key, for who may read it; who approved it, what gates ask for and what of it does not hold is
    for those with a role in the namespace."""
    if key is None:
        return Release()
    with store.database.reading() as session:
        version = session.get(VersionRow, key)
        if version is None:  # deleted meanwhile
            return Release()
        insider = _is_insider(session, caller, version.repo.namespace)
        return Release(
            _signature(session, store, version),
            gates.approvals(session, version) if insider else (),
            tuple(_guarded(session, store, version, insider=insider)),
        )


def _signature(session: Session, store: Store, version: VersionRow) -> Signature | None:
    from adapthub.hub import signing

    blob = signature_of(session, version)
    if blob is None:
        return None
    bundle, files = store.read(blob, 0, blob.size), digests_of(files_of_version(session, version))
    where = f"v{version.number}"
    try:
        key_id = signing.check_is_of(bundle, files, where)
        known = [key for key in keys_of(session, version.repo.namespace) if key.id == key_id]
        if not known:
            return Signature(None, key_id)
        key = signing.verify(bundle, files, known, where)
    except SignatureError as error:
        return Signature(None, None, error.message)
    return Signature(key.name, key.id)


def _guarded(session: Session, store: Store, version: VersionRow, *, insider: bool) -> Iterator[Guarded]:
    """Aliases first, then patterns that no alias fits."""
    found = gates.list_gates(session, version.repo.namespace, version.repo.name)
    if not found:
        return
    pointed = {
        row.alias: row.version
        for row in session.scalars(select(AliasRow).where(AliasRow.repo_id == version.repo_id))
    }
    guarded = [alias for alias in sorted(pointed) if any(fnmatchcase(alias, gate.alias) for gate in found)]
    if insider:  # which others are guarded says what the gates are
        fitting = [gate.alias for gate in found if not any(fnmatchcase(name, gate.alias) for name in guarded)]
        guarded += dict.fromkeys(fitting)
    for alias in guarded[:_MOST]:
        now = pointed.get(alias)
        fits = [gate for gate in found if alias == gate.alias or fnmatchcase(alias, gate.alias)]
        asked = insider and (alias in pointed or not any(mark in alias for mark in "*?["))
        yield Guarded(
            alias,
            None if now is None else now.number,
            tuple(_words(gate) for gate in fits) if insider else (),
            tuple(gates.unmet(session, store, version, alias))
            if asked and (now is None or now.id != version.id)
            else None,
        )


def _is_insider(session: Session, caller: Caller, namespace: str) -> bool:
    """Whether the caller may see what the gates of a namespace are."""
    if caller.alone:
        return True
    try:
        require_role(session, caller, namespace, "read")
    except (Unauthorized, Forbidden):
        return False
    return True


def _words(gate: Gate) -> str:
    """What a gate asks for."""
    asks = ["a signature"] if gate.signature else []
    asks += [f"{evaluation.removesuffix(':lower')} not worse" for evaluation in gate.evaluations]
    if gate.reviewers:
        asks.append(f"{gate.reviewers} reviewer{'s' if gate.reviewers > 1 else ''}")
    return f"{gate.namespace}/{gate.name or '*'} {gate.alias}: {', '.join(asks)}"
