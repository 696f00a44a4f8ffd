"""Addresses of pages. Everything in them is quoted; nothing is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from adapthub.hub.leaderboard import Board, Place
from adapthub.hub.namespaces import RESERVED


def namespace(name: str) -> str:
    """The adapters of a namespace; of one from before its name was reserved, too."""
    return browse(namespace=name) if name in RESERVED else f"/{quote(name)}"


def adapter(name: str, revision: str | None = None) -> str:
    """An adapter ("namespace/name"), or one revision of it."""
    return f"/{quote(name)}" + ("" if revision is None else f"/tree/{_part(revision)}")


def file(name: str, revision: str, path: str) -> str:
    """A file, shown."""
    return f"/{quote(name)}/blob/{_part(revision)}/{quote(path)}"


def raw(name: str, revision: str, path: str) -> str:
    """A file's bytes, for who is signed in."""
    return f"/{quote(name)}/raw/{_part(revision)}/{quote(path)}"


def diff(name: str, before: str, after: str) -> str:
    """What changed between two revisions."""
    return f"/{quote(name)}/diff/{_part(before)}..{_part(after)}"


def compare(*references: str) -> str:
    """Adapters side by side."""
    return f"/compare?{urlencode([('ref', reference) for reference in references])}"


def browse(**filters: str | int | None) -> str:
    """The list, filtered by what is not empty."""
    return _filtered("/", filters)


def audit(**filters: str | int | None) -> str:
    """The audit log, filtered by what is not empty."""
    return _filtered("/audit", filters)


def leaderboard(board: Board | Place, metric: str) -> str:
    """A leaderboard by one metric."""
    named = {"base": board.base, "task": board.task, "dataset": board.dataset, "metric": metric}
    return _filtered("/leaderboard", named)


def sign_in(back: str) -> str:
    """The form for a token, and where it leads back to."""
    return f"/-/sign-in?{urlencode({'next': back})}"


def _filtered(address: str, filters: Mapping[str, str | int | None]) -> str:
    given = {key: value for key, value in filters.items() if value not in (None, "")}
    return f"{address}?{urlencode(given)}" if given else address


def _part(text: str) -> str:
    return quote(text, safe="")
