"""Whose request an id names, and the log of requests where an administrator switched it on: redacted, then written.

The store is written on threads. Does not rate (feedback_api) or store (runtime/feedback).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from adapthub.adapters.errors import NotFound, StorageError
from adapthub.runtime.feedback import FeedbackStore, Logged, Rating
from adapthub.runtime.redaction import Redaction
from adapthub.runtime.server.observation import Observation

_LOG = logging.getLogger(__name__)
_NAMES = ("label", "entity", "entity_group")  # of JSON's keys whose values are names and no texts
_REMEMBERED = 50_000  # requests that may still be rated, where they are not logged


class FeedbackLog:
    """The feedback of one server. `redact`: what masks texts before they are written; None to write no texts at all."""

    def __init__(self, store: FeedbackStore, redact: Redaction | None = None) -> None:
        self._store = store
        self._redact = redact
        self._tenants: OrderedDict[str, str] = OrderedDict()  # of the latest requests, by id

    @property
    def logging(self) -> bool:
        """Whether texts are kept."""
        return self._redact is not None

    def observe(self, seen: Observation) -> None:
        """A request ended: its tenant may rate it."""
        self.remember(seen.id, seen.tenant)

    def remember(self, request_id: str, tenant: str) -> None:
        """The tenant of a request may rate it."""
        self._tenants[request_id] = tenant
        if len(self._tenants) > _REMEMBERED:
            self._tenants.popitem(last=False)

    async def log(self, request: Logged) -> None:
        """Write down a request if texts are kept; a request fails by nothing that goes wrong here."""
        if self._redact is None:
            return
        text = await asyncio.to_thread(self._redact, request.input)
        if text is None:
            _LOG.warning("request %s is not logged: the redaction hook failed", request.request_id)
            return
        output = await asyncio.to_thread(_redacted, request.output, self._redact)
        try:
            await asyncio.to_thread(self._store.log, replace(request, input=text, output=output))
        except StorageError as error:
            _LOG.error("request %s could not be logged: %s", request.request_id, error)

    async def rate(self, rating: Rating, check: Callable[[Logged, Rating], None]) -> Logged | None:
        """Keep what a tenant says of its own request; returns the request where it was logged, once `check` let it pass.

        Without the log no text is kept. Raises NotFound for a request that is not this tenant's, or too long ago, and what
        `check` raises.
        """
        request = await asyncio.to_thread(self._store.request, rating.request_id)
        tenant = request.tenant if request is not None else self._tenants.get(rating.request_id)
        if tenant != rating.tenant:
            raise NotFound(
                f"there is no request {rating.request_id:.80}",
                hint="Its id is in the answer, or its header X-Request-Id; old requests cannot be rated.",
            )
        if request is None or self._redact is None:
            rating = replace(rating, correction=None, comment=None)
        else:
            check(request, rating)
            correction = await asyncio.to_thread(_redacted, rating.correction, self._redact)
            comment = await asyncio.to_thread(self._redact, rating.comment or "")
            rating = replace(rating, correction=correction, comment=comment or None)
        await asyncio.to_thread(self._store.rate, rating)
        return request


def _redacted(value: Any, redact: Redaction) -> Any:
    """The same JSON with every text in it masked, but labels: they are names of ours."""
    if isinstance(value, str):
        return redact(value) or ""
    if isinstance(value, list):
        return [_redacted(one, redact) for one in value]
    if isinstance(value, dict):
        return {key: one if key in _NAMES else _redacted(one, redact) for key, one in value.items()}
    return value
