"""Keys of tenants: made, recognised, hashed.

    ah_3kd8f2ab_<43 characters>      32 random bytes behind a prefix that names the key and is no secret

Stored is the sha256 of the whole key. A slow hash is for passwords, which can be guessed: nobody guesses 256 random bits,
however fast a guess is, and every request hashes its key. Does not store keys or know whose they are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string

_KEY = re.compile(r"(ah_[a-z0-9]{8})_[A-Za-z0-9_-]{43}")
_PREFIX = re.compile(r"(?:ah_)?([a-z0-9]{8})")
_ALPHABET = string.ascii_lowercase + string.digits


def new_key() -> str:
    """A key that nobody had before."""
    name = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return f"ah_{name}_{secrets.token_urlsafe(32)}"


def prefix_of(key: str) -> str | None:
    """The prefix of what is a key by its form; None for anything else, of whatever length."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


def prefix_meant(text: str) -> str | None:
    """The prefix of the key that a person names: by its prefix, with or without `ah_`, or by the key itself."""
    match = _PREFIX.fullmatch(text)
    return f"ah_{match[1]}" if match else prefix_of(text)


def hash_of(key: str) -> str:
    """What is stored of a key: 64 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def fits(key: str, hash: str) -> bool:
    """Whether `hash` is that of `key`, in a time that does not tell how nearly."""
    return secrets.compare_digest(hash_of(key), hash)
