"""Requests of tests by httpx2, whose own patience of five seconds ends too soon where other tests run beside: a minute.

One TLS context serves all: to read the certificates for it takes longer than most requests.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2

CERTIFICATES = httpx2.create_ssl_context()
_GIVEN: dict[str, Any] = {"timeout": 60.0, "verify": CERTIFICATES}

get = partial(httpx2.get, **_GIVEN)
head = partial(httpx2.head, **_GIVEN)
post = partial(httpx2.post, **_GIVEN)
put = partial(httpx2.put, **_GIVEN)
delete = partial(httpx2.delete, **_GIVEN)
patch = partial(httpx2.patch, **_GIVEN)
request = partial(httpx2.request, **_GIVEN)
stream = partial(httpx2.stream, **_GIVEN)
client = partial(httpx2.Client, **_GIVEN)
