"""The addresses that LFS sends clients to, each signed for one thing, and what their signatures say. Answers nobody.

.../info/lfs/objects/{oid}?signed=…            the file: PUT all of it, GET it, or POST the list of its parts
.../info/lfs/objects/{oid}/{number}?signed=…   PUT one part of it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any
from urllib.parse import urlencode

from itsdangerous import BadSignature, SignatureExpired

from adapthub.adapters.errors import Forbidden
from adapthub.hub.reference import Reference
from adapthub.hub.server.signed import Signer

UPLOAD, PART, COMPLETION, DOWNLOAD, RECEIPT = (
    "lfs upload",
    "lfs part",
    "lfs completion",
    "lfs download",
    "lfs receipt",
)
_SIGNED = "signed"
_AGAIN = "Ask for a new one: start the upload again."


@dataclass(frozen=True)
class Addresses:
    """The addresses for one file, the sha256 `oid` of `size` bytes, of the repository `target` at `server`, a URL."""

    signer: Signer
    server: str
    target: Reference
    oid: str
    size: int

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
        signed = self.signer.sign(size, purpose, self.target.full_name, name)
        return f"{self._root}/{name}?{urlencode({_SIGNED: signed})}"


def check(signer: Signer, purpose: str, target: Reference, name: str, query: Mapping[str, str]) -> int:
    """The size in bytes that an address was signed for. Raises Forbidden unless it was, for this purpose."""
    size: int = _read(signer, query.get(_SIGNED, ""), "this address", purpose, target, name)
    return size


def receipt(signer: Signer, target: Reference, name: str, sha256: str, size: int) -> str:
    """What a part is answered with: that its sender has sent these bytes."""
    return signer.sign((sha256, size), RECEIPT, target.full_name, name)


def read_receipt(signer: Signer, target: Reference, name: str, text: str) -> tuple[str, int]:
    """The sha256 and size that a receipt is for. Raises Forbidden where it is none of ours for this part."""
    sha256, size = _read(signer, text.strip('"'), "the receipt of a part", RECEIPT, target, name)
    return sha256, size


def _read(signer: Signer, text: str, what: str, purpose: str, target: Reference, name: str) -> Any:
    try:
        return signer.read(text, purpose, target.full_name, name)
    except SignatureExpired as error:
        raise Forbidden(f"{what} is no longer good", hint=_AGAIN) from error
    except BadSignature as error:
        raise Forbidden(f"{what} is not as this hub signed it", hint=_AGAIN) from error
