"""Names on the command line that may be a repository's or a whole namespace's."""

from __future__ import annotations


def name_of(target: str) -> tuple[str, str]:
    """The namespace and the name in it that `namespace` or `namespace/name` says; the name "" is all of them."""
    from adapthub.hub.reference import Reference

    namespace, slash, name = target.partition("/")
    Reference(None, namespace, name if slash else "any")
    return namespace, name
