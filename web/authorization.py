"""The secret that a request brings. Does not know whether it is a good one."""

from __future__ import annotations

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers


def bearer(headers: Headers) -> str | None:
    """What the header Authorization has behind `Bearer`; None where there is no such header."""
    scheme, secret = get_authorization_scheme_param(headers.get("authorization"))
    return secret if scheme.lower() == "bearer" else None
