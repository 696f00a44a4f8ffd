"""Requests of tests by httpx2, whose own patience of five seconds ends too soon where other tests run beside: a minute.

One TLS context serves all: to read the certificates for it takes longer than most requests.
"""

from __future__ import annotations

from functools import partial

import httpx2

CERTIFICATES = httpx2.create_ssl_context()
_SECONDS = 60.0

get = partial(httpx2.get, timeout=_SECONDS, verify=CERTIFICATES)
head = partial(httpx2.head, timeout=_SECONDS, verify=CERTIFICATES)
post = partial(httpx2.post, timeout=_SECONDS, verify=CERTIFICATES)
put = partial(httpx2.put, timeout=_SECONDS, verify=CERTIFICATES)
delete = partial(httpx2.delete, timeout=_SECONDS, verify=CERTIFICATES)
patch = partial(httpx2.patch, timeout=_SECONDS, verify=CERTIFICATES)
request = partial(httpx2.request, timeout=_SECONDS, verify=CERTIFICATES)
stream = partial(httpx2.stream, timeout=_SECONDS, verify=CERTIFICATES)
client = partial(httpx2.Client, timeout=_SECONDS, verify=CERTIFICATES)
