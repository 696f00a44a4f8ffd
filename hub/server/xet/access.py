"""Who may use the facade: access tokens that the hub signs for one repository and one epoch, for an hour.

Does not know accounts: `holder` is whatever the hub calls the one who asked, and the hub is asked again at each request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from itsdangerous import BadSignature, SignatureExpired
from pydantic import BaseModel, ConfigDict, ValidationError

from adapthub.adapters.errors import Unauthorized
from adapthub.hub.server.signed import Signer

_PURPOSE = "xet write"
_ASK_AGAIN = "Ask the hub for a new write token: clients do so at the next upload."


@dataclass(frozen=True, slots=True)
class WriteGrant:
    """What `xet-write-token` answers: where to upload, with what, and until when (Unix time in seconds)."""

    cas_url: str
    access_token: str
    expires: int

    @property
    def headers(self) -> dict[str, str]:
        """As older clients and huggingface_hub read it."""
        return {
            "X-Xet-Cas-Url": self.cas_url,
            "X-Xet-Access-Token": self.access_token,
            "X-Xet-Token-Expiration": str(self.expires),
        }

    @property
    def body(self) -> dict[str, str | int]:
        """As hf_xet reads it."""
        return {"casUrl": self.cas_url, "accessToken": self.access_token, "exp": self.expires}


class Claims(BaseModel):
    """What a token says: who may write into which repository, in which epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    repo: str
    holder: str
    epoch: int


class Tokens:
    """Tokens signed with `secret`, which every process of the hub shares and nobody else knows."""

    def __init__(self, secret: bytes, seconds: int) -> None:
        self._signer = Signer(secret, seconds)

    def issue(self, claims: Claims) -> tuple[str, int]:
        """A token, and when it expires (Unix time in seconds)."""
        return self._signer.sign(claims.model_dump(), _PURPOSE), int(time.time()) + self._signer.seconds

    def read(self, token: str) -> Claims:
        """What a token says. Raises Unauthorized where it is not ours, or has expired."""
        try:
            return Claims.model_validate(self._signer.read(token, _PURPOSE))
        except SignatureExpired as error:
            raise Unauthorized("the access token of this upload has expired", hint=_ASK_AGAIN) from error
        except (BadSignature, ValidationError) as error:
            raise Unauthorized(
                "the access token of this upload is not of this hub", hint=_ASK_AGAIN
            ) from error
