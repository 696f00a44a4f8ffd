"""What clients bring back as they were given it: values, signed for one purpose and what it is bound to, for a while.

Signed for one thing, a text is good for nothing else. Whoever has it can read it. Knows no endpoints.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from itsdangerous import SignatureExpired, URLSafeTimedSerializer


class Signer:
    """Signs with `secret`, which every process of the hub shares and nobody else knows, for so many `seconds`."""

    def __init__(self, secret: bytes, seconds: int) -> None:
        self.seconds = seconds
        self._secret = secret

    def sign(self, value: Any, purpose: str, *bound: str) -> str:
        """A short text for addresses and headers, which has `value` in it, JSON, but not what it is `bound` to."""
        text = self._serializer(purpose, *bound).dumps(value)
        return text if isinstance(text, str) else text.decode()

    def read(self, text: str, purpose: str, *bound: str) -> Any:
        """The value. Raises BadSignature unless `sign` gave `text` for all of this; where that is too long ago, its
        SignatureExpired."""
        value, when = self._serializer(purpose, *bound).loads(text, return_timestamp=True)
        # Not by max_age, which refuses too what a server of this hub has signed whose clock is a second ahead.
        if time.time() >= when.timestamp() + self.seconds:
            raise SignatureExpired(f"signed more than {self.seconds} s ago", date_signed=when)
        return value

    def _serializer(self, *context: str) -> URLSafeTimedSerializer:
        derived = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        return URLSafeTimedSerializer(self._secret, salt=json.dumps(context), signer_kwargs=derived)
