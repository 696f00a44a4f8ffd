"""Gates: what must hold before an alias moves to a version, and what of it does not hold yet.

A gate is set for a name or for a whole namespace (`name` ""), and for the aliases that fit a pattern, such as `prod` or
`prod-*`. Every gate that fits must hold. It may ask for

- a signature over exactly the version's files, by one of the keys that the namespace believes;
- evaluations: for each "SPLIT/METRIC" the version's manifest has a number on that split, measured over the same data as
  the current version's, that is not worse than the lower bound of the current version's 95 % interval, or than its value
  where it has none ("SPLIT/METRIC:lower": where less is better, than the upper bound). The current version is the one that
  the alias points to; the first that it points to, or one after a version without that number, needs a number alone;
- reviewers: so many approvals by accounts that may write to the namespace now, other than the one that pushed the version.

Decides nothing about moves back (promotion says why), and moves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from adapthub.adapters.admission import MANIFEST
from adapthub.adapters.errors import (
    AdaptHubError,
    Conflict,
    Forbidden,
    InvalidReference,
    InvalidSettings,
    NotFound,
    SignatureError,
)
from adapthub.adapters.manifest import Manifest
from adapthub.hub import audit
from adapthub.hub.access import has_role
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.events import happened
from adapthub.hub.namespace_keys import keys_of
from adapthub.hub.records import facts_of
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Metric
from adapthub.hub.repos import lock
from adapthub.hub.room import check_room
from adapthub.hub.signatures import digests_of, files_of_version, signature_of
from adapthub.hub.storage.governance_tables import ApprovalRow, GateRow
from adapthub.hub.storage.tables import MAIN, AliasRow, RefRow, RepoRow, VersionRow
from adapthub.hub.store import Store

_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]-]{1,96}")
_EVALUATION = re.compile(r"([^/:\s]{1,100})/([^/:\s]{1,100})(:lower)?")
_MOST = 20  # evaluations or reviewers that one gate may ask for


@dataclass(frozen=True)
class Gate:
    """What must hold for the aliases of `namespace`/`name` (all its names where that is "") that fit the pattern `alias`."""

    namespace: str
    name: str
    alias: str
    signature: bool = False
    evaluations: tuple[str, ...] = ()
    reviewers: int = 0


class GateRefused(Forbidden):
    """An alias that may not move to a version yet. `unmet`: each requirement that does not hold, in words."""

    def __init__(self, version: str, alias: str, unmet: Sequence[str]) -> None:
        super().__init__(f"{alias} may not move to {version}: {'; '.join(unmet)}")
        self.version = version
        self.alias = alias
        self.unmet = tuple(unmet)


def set_gate(session: Session, gate: Gate, *, actor: Actor = MACHINE) -> Gate:
    """Let `gate` hold from now on, in place of one for the same name and pattern. Raises InvalidReference, InvalidSettings,
    Conflict where there is a branch or tag of a name that it guards, or the namespace has too many."""
    Reference(None, gate.namespace, gate.name or "any")
    if not _PATTERN.fullmatch(gate.alias):
        raise InvalidReference(
            f"{gate.alias[:120]!r} is no pattern of aliases", hint="Write an alias, or prod-* or *."
        )
    for evaluation in gate.evaluations:
        if not _EVALUATION.fullmatch(evaluation):
            raise InvalidSettings(
                f"{evaluation[:120]!r} is no evaluation",
                hint="Write SPLIT/METRIC, such as test/f1, or test/loss:lower where less is better.",
            )
    if not 0 <= gate.reviewers <= _MOST or len(gate.evaluations) > _MOST:
        raise InvalidSettings(f"a gate asks for 0 to {_MOST} reviewers and evaluations")
    if not (gate.signature or gate.evaluations or gate.reviewers):
        raise InvalidSettings(
            "the gate asks for nothing", hint="Ask for a signature, an evaluation or reviewers."
        )
    _check_no_ref(session, gate)
    row = session.get(GateRow, (gate.namespace, gate.name, gate.alias))
    if row is None:
        audit.lock(session)
        check_room(session, GateRow.namespace, gate.namespace, "gates")
        row = GateRow(namespace=gate.namespace, name=gate.name, alias=gate.alias, created=datetime.now(UTC))
        session.add(row)
    row.signature, row.reviewers = gate.signature, gate.reviewers
    row.evaluations = list(dict.fromkeys(gate.evaluations))
    session.flush()
    detail = {
        "alias": gate.alias,
        "signature": row.signature,
        "evaluations": row.evaluations,
        "reviewers": row.reviewers,
    }
    audit.record(session, actor, "gate.set", namespace=gate.namespace, repo=_repo(gate), **detail)
    return _gate(row)


def remove_gate(session: Session, namespace: str, name: str, alias: str, *, actor: Actor = MACHINE) -> Gate:
    """Ask for it no more. Raises NotFound."""
    row = session.get(GateRow, (namespace, name, alias))
    if row is None:
        raise NotFound(
            f"{namespace}/{name or '*'} has no gate for {alias[:100]}",
            hint="adapt hub gate list shows those that there are.",
        )
    gate = _gate(row)
    session.delete(row)
    session.flush()
    audit.record(session, actor, "gate.removed", namespace=namespace, repo=_repo(gate), alias=alias)
    return gate


def list_gates(session: Session, namespace: str | None = None, name: str | None = None) -> list[Gate]:
    """All gates; those of one namespace; or those that hold for one name of it, its namespace's too."""
    query = select(GateRow).order_by(GateRow.namespace, GateRow.name, GateRow.alias)
    if namespace is not None:
        query = query.where(GateRow.namespace == namespace)
    if name is not None:
        query = query.where(GateRow.name.in_(("", name)))
    return [_gate(row) for row in session.scalars(query)]


def approve(session: Session, version: VersionRow, account: str, *, actor: Actor = MACHINE) -> None:
    """Let `account` have found `version` good; once is enough. Raises Forbidden where they pushed it themselves or may not
    write to its namespace."""
    repo = lock(session, version.repo)
    if version.commit.author == account:
        raise Forbidden(
            f"{account} pushed v{version.number} of {repo.full_name}", hint="Ask somebody else to approve it."
        )
    if not has_role(session, account, repo.namespace, "write"):
        raise Forbidden(f"{account} may not write to {repo.namespace}/, and so not approve what is in it")
    if session.get(ApprovalRow, (version.id, account)) is not None:
        return
    session.add(ApprovalRow(version_id=version.id, account=account, approved=datetime.now(UTC)))
    session.flush()
    happened(session, actor, "approved", repo=repo.full_name, version=version.number, account=account)


def withdraw(session: Session, version: VersionRow, account: str, *, actor: Actor = MACHINE) -> None:
    """Take an approval back. Raises Conflict where there is none."""
    row = session.get(ApprovalRow, (version.id, account))
    if row is None:
        raise Conflict(f"{account} has not approved v{version.number} of {version.repo.full_name}")
    session.delete(row)
    session.flush()
    happened(
        session,
        actor,
        "approval.withdrawn",
        repo=version.repo.full_name,
        version=version.number,
        account=account,
    )


def approvals(session: Session, version: VersionRow) -> list[str]:
    """The accounts whose approvals of a version count now."""
    given = select(ApprovalRow.account).where(ApprovalRow.version_id == version.id)
    return [
        account
        for account in session.scalars(given.order_by(ApprovalRow.approved))
        if account != version.commit.author and has_role(session, account, version.repo.namespace, "write")
    ]


def unmet(session: Session, store: Store, version: VersionRow, alias: str) -> list[str]:
    """What does not hold yet for `alias` to move to `version`, each in words; empty where it may."""
    current = session.get(AliasRow, (version.repo_id, alias))
    now = None if current is None else current.version
    found: list[str] = []
    for gate in list_gates(session, version.repo.namespace, version.repo.name):
        if fnmatchcase(alias, gate.alias):
            found += _unmet(session, store, gate, version, now)
    return list(dict.fromkeys(found))


def is_guarded(session: Session, namespace: str, name: str) -> bool:
    """Whether a gate holds for any alias of that name: then only an admin moves a repository from it or to it, or deletes
    it, for its aliases go with it."""
    return bool(list_gates(session, namespace, name))


def check_refs(session: Session, repo: RepoRow, target: Reference) -> None:
    """Raises Conflict where `repo` has a branch or a tag whose name a gate of `target` guards."""
    for gate in list_gates(session, target.namespace, target.name):
        _check_names(session, gate, RepoRow.id == repo.id)


def check_not_guarded(session: Session, repo: RepoRow, name: str) -> None:
    """Raises Forbidden where a gate guards `name`, of a branch or a tag: it would mean what none let through."""
    for gate in list_gates(session, repo.namespace, repo.name):
        if fnmatchcase(name, gate.alias):
            raise Forbidden(
                f"{name} is a name that the gate for {gate.alias} of {gate.namespace}/{gate.name or '*'} guards",
                hint="Promote a version to it, or choose another name.",
            )


def _check_no_ref(session: Session, gate: Gate) -> None:
    named = (RepoRow.name == gate.name,) if gate.name else ()
    _check_names(session, gate, RepoRow.namespace == gate.namespace, *named)


def _check_names(session: Session, gate: Gate, *repos: ColumnElement[bool]) -> None:
    """Raises Conflict for the first branch or tag of those repositories whose name `gate` guards. It would go on being
    committed to, and be what the name means. Nothing is promoted to main, so that is guarded by no gate."""
    refs = select(RefRow.name, RepoRow.namespace, RepoRow.name.label("repo")).join(
        RepoRow, RepoRow.id == RefRow.repo_id
    )
    for ref in session.execute(refs.where(RefRow.name != MAIN, *repos).order_by(RepoRow.id)):
        if fnmatchcase(ref.name, gate.alias):
            raise Conflict(
                f"{ref.namespace}/{ref.repo} has a branch or a tag {ref.name}, which the gate for {gate.alias} of"
                f" {gate.namespace}/{gate.name or '*'} guards",
                hint="Delete it first, or give it another name.",
            )


def _unmet(
    session: Session, store: Store, gate: Gate, version: VersionRow, current: VersionRow | None
) -> Iterator[str]:
    if gate.signature:
        yield from _signature(session, store, gate, version)
    for evaluation in gate.evaluations:
        yield from _evaluation(session, store, evaluation, version, current)
    if gate.reviewers:
        given = approvals(session, version)
        if len(given) < gate.reviewers:
            who = version.commit.author or "whoever pushed it"
            yield (
                f"it needs the approval of {gate.reviewers} other than {who}, and has"
                f" {', '.join(given) or 'none'}"
            )


def _signature(session: Session, store: Store, gate: Gate, version: VersionRow) -> Iterator[str]:
    from adapthub.hub import signing

    blob = signature_of(session, version)
    bundle = None if blob is None else store.read(blob, 0, blob.size)
    files = digests_of(files_of_version(session, version))
    try:
        signing.verify(bundle, files, keys_of(session, gate.namespace), f"v{version.number}")
    except SignatureError as error:
        yield f"it needs a signature by a key of {gate.namespace}: {error.message}"


def _evaluation(
    session: Session, store: Store, evaluation: str, version: VersionRow, current: VersionRow | None
) -> Iterator[str]:
    match = _EVALUATION.fullmatch(evaluation)
    assert match is not None
    split, name, lower = match.groups()
    measured = _measured(version, split, name)
    if measured is None:
        yield f"its manifest has no {name} on {split}"
        return
    before = None if current is None or current.id == version.id else _measured(current, split, name)
    if current is None or before is None:
        return
    data = [_data(session, store, one, split) for one in (version, current)]
    if data[0] is None and data[1] is not None:
        yield f"its manifest does not say over which data its {name} on {split} is, as v{current.number}'s does"
        return
    if data[1] is not None and data[0] != data[1]:
        yield f"its {name} on {split} is over other data than v{current.number}'s"
        return
    bound = before.high if lower else before.low
    bound = before.value if bound is None else bound
    if measured.value > bound if lower else measured.value < bound:
        yield (
            f"its {name} on {split} is {measured.value:.4g}, worse than the {bound:.4g} that v{current.number}'s"
            f" interval ends at"
        )


def _measured(version: VersionRow, split: str, name: str) -> Metric | None:
    return next(
        (one for one in facts_of(version).metrics if (one.split, one.name) == (split, name) and one.n > 0),
        None,
    )


def _data(session: Session, store: Store, version: VersionRow, split: str) -> str | None:
    """The digest of the data that a version says it was measured over; None where it does not say."""
    blob = files_of_version(session, version).get(MANIFEST)
    if blob is None:
        return None
    try:
        manifest = Manifest.from_json(store.read(blob, 0, blob.size), MANIFEST)
    except AdaptHubError:
        return None
    record = manifest.data.get(split)
    return None if record is None else record.fingerprint


def _gate(row: GateRow) -> Gate:
    return Gate(row.namespace, row.name, row.alias, row.signature, tuple(row.evaluations), row.reviewers)


def _repo(gate: Gate) -> str | None:
    return f"{gate.namespace}/{gate.name}" if gate.name else None
