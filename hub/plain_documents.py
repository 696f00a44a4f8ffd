"""What a hub that speaks the Hugging Face protocol alone answers, as far as it is read here. Asks nothing.

What does not read so raises pydantic's ValidationError.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

CommitId = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class InfoDocument(BaseModel):
    """A repository at a revision."""

    sha: CommitId
    lastModified: datetime


class ListedDocument(BaseModel):
    """A repository of a list."""

    id: str
    lastModified: datetime | None = None
    createdAt: datetime | None = None
    tags: list[str] | None = None
    pipeline_tag: str | None = None
    cardData: Any = None


class LfsDocument(BaseModel):
    """What a file is that goes by LFS."""

    oid: Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class TreeDocument(BaseModel):
    """A file or a folder of a tree; folders have no size of use."""

    type: str
    path: str
    oid: CommitId
    size: Annotated[int, Field(ge=0)] = 0
    lfs: LfsDocument | None = None


class CommitDocument(BaseModel):
    """A commit of a history."""

    id: CommitId
    title: str | None = None
    message: str | None = None
    date: datetime


class RefDocument(BaseModel):
    """A branch or a tag."""

    name: str
    targetCommit: CommitId


class RefsDocument(BaseModel):
    """All of a repository's."""

    branches: list[RefDocument] = []
    tags: list[RefDocument] = []


class AccessDocument(BaseModel):
    """A token; `role` is its scope."""

    role: str | None = None


class AuthDocument(BaseModel):
    """By what somebody is known."""

    accessToken: AccessDocument | None = None


class OrganisationDocument(BaseModel):
    """One that somebody belongs to, and as what."""

    name: str
    roleInOrg: str | None = None


class WhoDocument(BaseModel):
    """Whom a token is of."""

    name: str
    auth: AuthDocument | None = None
    orgs: list[OrganisationDocument] = []

    @property
    def scope(self) -> str | None:
        """The token's, if that is said."""
        token = None if self.auth is None else self.auth.accessToken
        return None if token is None else token.role

    @property
    def writes_to(self) -> set[str]:
        """Namespaces in which they may make repositories, in lower case: the public hub has no two of one spelling."""
        return {
            self.name.lower(),
            *(one.name.lower() for one in self.orgs if one.roleInOrg != "read"),
        }
