"""One adapter published: the next version of a name and the alias that points at it, in one transaction.

The embedded hub and the server's own interface publish by this. The adapter's blobs are stored before (store). Knows no
callers and no gates.
"""

from __future__ import annotations

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub import aliases, repos
from adapthub.hub.commits import add_whole
from adapthub.hub.facts import is_unicode
from adapthub.hub.inspection import Inspected
from adapthub.hub.records import version_of
from adapthub.hub.reference import Reference, check_alias
from adapthub.hub.registry import Version
from adapthub.hub.store import Store
from adapthub.hub.trees import Tree
from adapthub.hub.versions import with_digest


def check_words(message: str, alias: str | None) -> None:
    """Raises InvalidSettings for a message that no database can hold, InvalidReference for an alias that cannot be moved."""
    if alias is not None:
        check_alias(alias)
    if not is_unicode(message):
        raise InvalidSettings("the message is not valid Unicode text")


def publish(
    store: Store,
    reference: Reference,
    tree: Tree,
    inspected: Inspected,
    *,
    message: str,
    alias: str | None,
    author: str | None = None,
) -> Version:
    """Make `tree`, a whole adapter, the next version of `reference`, or find the version that it is; point `alias` at it.

    Raises Conflict where the name is for another task."""
    assert inspected.adapter is not None
    check_words(message, alias)
    with store.database.writing() as session:
        repo = repos.find_or_make(session, reference)
        version = with_digest(session, repo, inspected.adapter.digest)
        repeated = version is not None
        if version is None:
            version = add_whole(session, repo, tree, inspected, message=message, author=author)
        if alias is not None:
            aliases.promote(session, version, alias)
        return version_of(version, repeated=repeated)
