"""What our client and our server say to each other beside the Hugging Face protocol. Sends nothing itself.

GET  /api/adapthub                                    which hub this is
GET  /api/adapters                                    documents.entry_record, a page of them; Link has the next
GET  /api/models/{name}/lineage                       documents.lineage_record
GET  /api/models/{name}/available
GET  /api/models/{name}/may-push                      204, or why not
GET  /api/models/{name}/versions/{revision}           Version
GET  /api/models/{name}/versions/{revision}/details   Details
GET  /api/models/{name}/versions/{revision}/bundle    a tar
PUT  /api/models/{name}/blobs/{sha256}                bytes; answers Kept
POST /api/models/{name}/blobs/{sha256}                Parts; answers Assembled
PUT  /api/models/{name}/signature/{revision}          model.sig
POST /api/models/{name}/versions                      Publication; answers Published
GET  /api/models/{name}/aliases                       Alias
PUT  /api/models/{name}/aliases/{alias}               answers Version
POST /api/models/{name}/aliases/{alias}/rollback      answers Version
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from adapthub.hub.registry import Version

PROTOCOL = 1
PAGE = 500  # entries of a list at once
SUMS = "SHA256SUMS"  # the first member of a bundle
BUNDLE_BYTES = 4 * 2**20  # the largest adapter that comes in one: of a larger one a part is worth keeping
PART_BYTES = (
    32 * 2**20
)  # of a file of more than two of them: what a push that is cut off has to send again at most
DIGEST_HEADER = "X-AdaptHub-Digest"
SIZE_HEADER = "X-AdaptHub-Size"
SIGNATURE_HEADER = (
    "X-AdaptHub-Signature"  # the sha256 and the size of model.sig in the commit of X-Repo-Commit
)


class PublishedFile(BaseModel):
    """A file of an adapter; `content` are its bytes where they come along, `receipt` what they were answered with where they
    came before."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    content: bytes | None = None
    receipt: str | None = None


class Kept(BaseModel):
    """The answer to the bytes of a file."""

    receipt: str


class Part(BaseModel):
    """A part of a file: the sha256 and the size of its bytes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=1)]


class Parts(BaseModel):
    """All parts of a file, in order."""

    parts: Annotated[list[Part], Field(min_length=1, max_length=1000)]


class Assembled(BaseModel):
    """The receipt of the file that was put together; or the sha256 of the parts that this name was not sent yet."""

    receipt: str | None = None
    missing: list[str] = []


class Publication(BaseModel):
    """An adapter to publish: its files by path, and its model.sig among them if it has one."""

    files: Annotated[dict[str, PublishedFile], Field(max_length=1000)]
    message: str = ""
    alias: str | None = None


class Published(BaseModel):
    """The version that an adapter is now; or the sha256 of bytes that this name was not sent yet, and no version."""

    version: Version | None
    missing: list[str]
