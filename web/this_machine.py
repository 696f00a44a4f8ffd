"""Whether a server is for this machine alone, by the address that it listens at and by the name that clients call it.

Does not refuse anything.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

_ADDRESSES = ("127.0.0.1", "::1", "localhost")


def is_private(host: str) -> bool:
    """Whether only this machine's programs reach what listens at `host`."""
    return host in _ADDRESSES


def is_called(host: str) -> bool:
    """Whether a request's Host header means this machine, at any port. A foreign name does not, though it may be made to
    lead here, by a website that a browser on this machine shows."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
