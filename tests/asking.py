"""Requests of tests by httpx2, whose own patience of five seconds ends too soon where other tests run beside: a minute."""

from __future__ import annotations

from functools import partial

import httpx2

_SECONDS = 60.0

get = partial(httpx2.get, timeout=_SECONDS)
head = partial(httpx2.head, timeout=_SECONDS)
post = partial(httpx2.post, timeout=_SECONDS)
put = partial(httpx2.put, timeout=_SECONDS)
delete = partial(httpx2.delete, timeout=_SECONDS)
patch = partial(httpx2.patch, timeout=_SECONDS)
request = partial(httpx2.request, timeout=_SECONDS)
stream = partial(httpx2.stream, timeout=_SECONDS)
client = partial(httpx2.Client, timeout=_SECONDS)
