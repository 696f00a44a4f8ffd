"""The addresses that LFS sends clients to, each signed for one thing, and what their signatures say. Answers nobody.

.../info/lfs/objects/{oid}?size=…&by=…            the file: PUT all of it, GET it, or POST the list of its parts
.../info/lfs/objects/{oid}/{number}?size=…&by=…   PUT one part of it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from urllib.parse import urlencode

from adapthub.adapters.errors import Forbidden
from adapthub.hub.reference import Reference
from adapthub.hub.server.signed_urls import Signer

UPLOAD, PART, COMPLETION, DOWNLOAD, RECEIPT = (
    "lfs upload",
    "lfs part",
    "lfs completion",
    "lfs download",
    "lfs receipt",
)
_SIGNED = ("size", "by", "expires", "signature")


@dataclass(frozen=True)
class Addresses:
    """The addresses for one file, the sha256 `oid` of `size` bytes, of the repository `target` at `server`, a URL. They are
    good for so many `seconds`, and for as long as the token works that was asked with: `holder` is its prefix."""

    signer: Signer
    server: str
    target: Reference
    oid: str
    size: int
    seconds: int
    holder: str | None

    @property
    def verify(self) -> str:
        """Where clients ask, with their token, whether the file came."""
        return f"{self._root}/verify"

    def of(self, purpose: str) -> str:
        """Where the whole file goes to or comes from."""
        return self._signed(purpose, self.oid, self.size)

    def parts(self, most: int) -> Iterator[str]:
        """Where the parts of `most` bytes, and the last of what is left, go to."""
        for number in range(1, ceil(self.size / most) + 1):
            size = min(most, self.size - (number - 1) * most)
            yield self._signed(PART, f"{self.oid}/{number}", size)

    @property
    def _root(self) -> str:
        return f"{self.server}/{self.target.full_name}.git/info/lfs/objects"

    def _signed(self, purpose: str, name: str, size: int) -> str:
        values = {"size": str(size), "repo": self.target.full_name, "name": name}
        values |= {} if self.holder is None else {"by": self.holder}
        signed = self.signer.sign(purpose, values, self.seconds)
        return f"{self._root}/{name}?{urlencode({key: signed[key] for key in _SIGNED if key in signed})}"


def check(signer: Signer, purpose: str, target: Reference, name: str, query: Mapping[str, str]) -> int:
    """The size in bytes that an address was signed for. Raises Forbidden unless it was, for this purpose. `by` in its query
    is then the prefix of the token that asked for it; downloads outlive theirs."""
    signed = {key: query[key] for key in _SIGNED if key in query}
    signer.check(purpose, {**signed, "repo": target.full_name, "name": name})
    return int(signed["size"])


def receipt(signer: Signer, target: Reference, name: str, sha256: str, size: int, seconds: int) -> str:
    """What a part is answered with: that its sender has sent these bytes."""
    values = {"repo": target.full_name, "name": name, "sha256": sha256, "size": str(size)}
    signed = signer.sign(RECEIPT, values, seconds)
    return f"{sha256}-{size}-{signed['expires']}-{signed['signature']}"


def read_receipt(signer: Signer, target: Reference, name: str, text: str) -> tuple[str, int]:
    """The sha256 and size that a receipt is for. Raises Forbidden where it is none of ours for this part."""
    fields = text.strip('"').split("-")
    if len(fields) != 4:
        raise Forbidden(f"{text[:40]!r} is not what this hub answered to a part")
    sha256, size, expires, signature = fields
    values = {"repo": target.full_name, "name": name, "sha256": sha256, "size": size}
    signer.check(RECEIPT, {**values, "expires": expires, "signature": signature})
    return sha256, int(size)
