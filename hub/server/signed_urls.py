"""URLs that carry their own permission, for clients that send no token with what they upload: signed, and good for a while.

What is signed is the purpose and every value, so that a URL for one thing does nothing else. Knows no endpoints.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping

from adapthub.adapters.errors import Forbidden

_AGAIN = "Ask for a new URL: start the upload again."


class Signer:
    """Signs with one `secret`. `now`: the time, in seconds since 1970."""

    def __init__(self, secret: bytes, *, now: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._now = now

    def sign(self, purpose: str, values: Mapping[str, str], seconds: int) -> dict[str, str]:
        """The query parameters of a URL for `values`, good for so many seconds."""
        signed = {**values, "expires": str(int(self._now()) + seconds)}
        return {**signed, "signature": self._signature(purpose, signed)}

    def check(self, purpose: str, parameters: Mapping[str, str]) -> None:
        """Raises Forbidden unless `parameters` are what `sign` gave for this purpose, not too long ago."""
        values = dict(parameters)
        given = values.pop("signature", "")
        if not hmac.compare_digest(given.encode(), self._signature(purpose, values).encode()):
            raise Forbidden("the signature of this URL is wrong", hint=_AGAIN)
        if not int(values["expires"]) > self._now():
            raise Forbidden("this URL is no longer good", hint=_AGAIN)

    def _signature(self, purpose: str, values: Mapping[str, str]) -> str:
        text = "\n".join([purpose, *(f"{key}={len(value)}:{value}" for key, value in sorted(values.items()))])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
