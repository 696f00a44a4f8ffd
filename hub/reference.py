"""References: `[hub::]namespace/name[@revision]`, the names that people write for adapters.

A revision is a version (`v3`), an alias (`prod`), or a commit: the first 7 or more hex digits of an
artifact's digest. The three never overlap, because an alias that looks like one of the others is refused.
Parsing touches no hub: whether a name or revision exists is the registry's answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapthub.adapters.errors import InvalidReference

NEWEST = ("latest", "main")
"""Revisions that always mean the newest version; `main` is what Hugging Face clients ask for. Never stored,
never moved."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_VERSION_LIKE = re.compile(r"[vV][0-9]+")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_COMMIT_LIKE = re.compile(r"[0-9a-fA-F]{7,}")

_HINT = "Write namespace/name, and a revision after @ if you want one: acme/ner, acme/ner@v3, acme/ner@prod."
_NAME_RULE = (
    "Use 1 to 96 letters, digits, '.', '_' and '-', not beginning or ending with '.' or '-', "
    "without '--' or '..', not ending in '.git'."
)


@dataclass(frozen=True, slots=True)
class Reference:
    """One adapter, or one version of it, by name. Always valid: `Reference.parse(str(reference)) ==
    reference`.

    Raises InvalidReference when a part breaks the rules of names.
    """

    hub: str | None
    namespace: str
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        for kind, part in (("hub", self.hub), ("namespace", self.namespace), ("name", self.name)):
            if part is not None and not _is_name(part):
                raise InvalidReference(f"{kind} {_shown(part)} is not a valid name", hint=_NAME_RULE)
        if self.revision is not None and not _is_name(self.revision):
            raise InvalidReference(
                f"revision {_shown(self.revision)} is not a version, alias or commit",
                hint="Write v3, an alias such as prod, or 7 or more hex digits of a digest.",
            )

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `[hub::]namespace/name[@revision]`; a commit may be written as it is printed,
        `sha256:<hex>`."""
        hub, separator, rest = text.strip().rpartition("::")
        if separator and not hub:
            raise InvalidReference(f"{_shown(text)} names no hub before '::'", hint=_HINT)
        path, at, revision = rest.partition("@")
        revision = revision.removeprefix("sha256:")
        if at and not revision:
            raise InvalidReference(f"{_shown(text)} names no revision after '@'", hint=_HINT)
        namespace, slash, name = path.partition("/")
        if not slash:
            raise InvalidReference(f"{_shown(text)} is not a reference to an adapter", hint=_HINT)
        return cls(hub or None, namespace, name, revision or None)

    def __str__(self) -> str:
        hub = "" if self.hub is None else f"{self.hub}::"
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{hub}{self.full_name}{revision}"

    @property
    def full_name(self) -> str:
        """`namespace/name`, without hub and revision."""
        return f"{self.namespace}/{self.name}"

    @property
    def number(self) -> int | None:
        """The version number that the revision says (`v3` is 3), else None."""
        match = _VERSION.fullmatch(self.revision or "")
        return int(match[1]) if match else None

    @property
    def commit(self) -> str | None:
        """The hex prefix of a digest that the revision says, else None."""
        return self.revision if _COMMIT.fullmatch(self.revision or "") else None


def parse_name(text: str | Reference) -> Reference:
    """Read a reference that names an adapter and no revision of it. Raises InvalidReference."""
    reference = text if isinstance(text, Reference) else Reference.parse(text)
    if reference.revision is not None:
        raise InvalidReference(
            f"{reference} names a revision, where the adapter's name is wanted",
            hint=f"Write {reference.full_name}.",
        )
    return reference


def parse_own(text: str) -> Reference:
    """Read a reference that a hub is asked about: to one of its own adapters. Raises InvalidReference where it is to another
    hub's."""
    reference = Reference.parse(text)
    if reference.hub is not None:
        raise InvalidReference(
            f"{_shown(text)} is of the hub {reference.hub!r}, and only adapters of this one are known here",
            hint=f"Write {str(reference).partition('::')[2]} for the one of that name here.",
        )
    return reference


def check_alias(alias: str) -> str:
    """Return `alias` if it can be moved by hand, else raise InvalidReference saying why it cannot."""
    if not _is_name(alias):
        raise InvalidReference(f"alias {_shown(alias)} is not a valid name", hint=_NAME_RULE)
    if alias in NEWEST:
        raise InvalidReference(
            f"alias {alias!r} always means the newest version", hint="Choose another name, such as prod."
        )
    if reads_as_version_or_commit(alias):
        raise InvalidReference(
            f"alias {alias!r} would read as a version or a commit", hint="Choose another name, such as prod."
        )
    return alias


def reads_as_version_or_commit(text: str) -> bool:
    """Whether a name would be taken for `v3` or for hex digits of a commit or a digest."""
    return bool(_VERSION_LIKE.fullmatch(text) or _COMMIT_LIKE.fullmatch(text))


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and "--" not in text and ".." not in text and not text.endswith(".git")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
