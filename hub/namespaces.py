"""Which names no namespace may have: those that a hub's own addresses begin with, or that clients read as something else.

Asked wherever a namespace comes to be: with a repository, an account, an organisation. One that is there already stays.
"""

from __future__ import annotations

from adapthub.adapters.errors import InvalidReference
from adapthub.hub.reference import Reference

# What this hub answers by itself; kinds of repositories to the Hugging Face Hub's clients; what further pages may be.
_NAMES = """
    api audit compare health leaderboard oauth openapi.json xet
    buckets datasets kernels models spaces
    join login logout metrics new search settings static
"""
RESERVED = frozenset(_NAMES.split())


def check_namespace(name: str) -> None:
    """Raises InvalidReference for a name that no namespace may have."""
    Reference(None, name, "any")
    if name in RESERVED:
        raise InvalidReference(
            f"no namespace is called {name}: a hub's own addresses begin so", hint="Choose another one."
        )
