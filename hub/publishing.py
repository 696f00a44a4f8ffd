"""One adapter published: the next version of a name and the alias that points at it, in one transaction.

The embedded hub and the server's own interface publish by this; the alias's gates are asked, and once more whether the
actor's token may write. The adapter's blobs are stored before (store), and its signature is over its files: that is the
caller's to know.
"""

from __future__ import annotations

from dataclasses import replace

from adapthub.adapters.admission import SIGNATURE
from adapthub.adapters.errors import InvalidSettings
from adapthub.hub import quotas, repos, uploads
from adapthub.hub.access import check_still
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.commits import add_signature, add_whole
from adapthub.hub.facts import is_unicode
from adapthub.hub.fitting import fit_of
from adapthub.hub.inspection import Inspected
from adapthub.hub.promotion import promote, read_ahead, refusals_told
from adapthub.hub.records import version_of
from adapthub.hub.reference import Reference, check_alias
from adapthub.hub.registry import Version
from adapthub.hub.storage.retrying import retried
from adapthub.hub.store import Store
from adapthub.hub.trees import Tree
from adapthub.hub.versions import with_digest


def check_words(message: str, alias: str | None) -> None:
    """Raises InvalidSettings for a message that no database can hold, InvalidReference for an alias that cannot be moved."""
    if alias is not None:
        check_alias(alias)
    if not is_unicode(message):
        raise InvalidSettings("the message is not valid Unicode text")


@retried
def publish(
    store: Store,
    reference: Reference,
    tree: Tree,
    inspected: Inspected,
    *,
    message: str,
    alias: str | None,
    actor: Actor = MACHINE,
) -> Version:
    """Make `tree`, a whole adapter, the next version of `reference`, or find the version that it is, which may get its
    signature so; point `alias` at it.

    Raises Conflict where the name is for another task, TensorMismatch where it does not land on a base that is known here,
    GateRefused where a gate of the alias does not let it, Forbidden where the namespace would hold more than it may, and
    Unauthorized or Forbidden where the actor's token may not write to it any more."""
    adapter = inspected.adapter
    assert adapter is not None
    check_words(message, alias)
    inspected = replace(inspected, fit=fit_of(store, adapter))
    ahead = store
    if alias is not None:
        with store.database.reading() as session:
            ahead = read_ahead(session, store, reference, tree, alias)
    told = refusals_told(store, reference.full_name, actor=actor)
    with told, store.database.writing() as session:
        check_still(session, actor.token, reference.namespace)
        repo, made = repos.find_or_make(session, reference)
        quotas.reserve(session, repo.namespace, tree.values())
        version = with_digest(session, repo, adapter.digest)
        repeated = version is not None
        if version is None:
            version = add_whole(
                session, store, repo, tree, inspected, made=made, message=message, actor=actor
            )
        elif SIGNATURE in tree:
            add_signature(session, store, repo, version, tree[SIGNATURE], actor)
        uploads.published(session, reference, [blob.sha256 for blob in tree.values()])
        if alias is not None:
            promote(session, ahead, version, alias, actor=actor)
        return version_of(version, repeated=repeated)
