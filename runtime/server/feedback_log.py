"""Whose request an id names, and the log of requests where an administrator switched it on: redacted, then written.

One thread of its own redacts and writes, in the order that things come: a disk that is slow or locked keeps no answer from
its client. Does not rate (feedback_api) or store (runtime/feedback).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from adapthub.adapters.errors import NotFound, Overloaded, StorageError
from adapthub.runtime.feedback import FeedbackStore, Logged, Rating
from adapthub.runtime.redaction import Redaction
from adapthub.runtime.server.observation import Observation

_LOG = logging.getLogger(__name__)
_LONGEST = 100_000  # characters of a text that are kept
_WAITING = 1000  # requests and ratings that wait to be written at most
_PATIENCE = 10.0  # seconds that a rating waits to be written, and that an ending log goes on writing
_REMEMBERED = 10_000  # requests that a tenant may still rate, where they are not logged
Done = TypeVar("Done")


class FeedbackLog:
    """The feedback of one server. `redact`: what masks texts before they are written; None to write no texts at all."""

    def __init__(self, store: FeedbackStore, redact: Redaction | None = None) -> None:
        self._store = store
        self._redact = redact
        self._latest: defaultdict[str, OrderedDict[str, None]] = defaultdict(OrderedDict)  # ids by tenant
        self._writer = ThreadPoolExecutor(1, "adapthub-feedback")
        self._lock = Lock()
        self._waiting: set[Future[Any]] = set()
        self._dropped = 0

    @property
    def logging(self) -> bool:
        """Whether texts are kept."""
        return self._redact is not None

    def observe(self, seen: Observation) -> None:
        """A request ended: its tenant may rate it."""
        latest = self._latest[seen.tenant]
        latest[seen.id] = None
        if len(latest) > _REMEMBERED:
            latest.popitem(last=False)

    def log(self, request: Logged) -> None:
        """Write down a request soon if texts are kept, without waiting; where too many wait already it is dropped.

        Of long texts the beginning is kept.
        """
        if self._redact is None:
            return
        try:
            self._submit(partial(self._write, _cut(request), self._redact))
        except Overloaded:
            with self._lock:
                self._dropped += 1
                first = self._dropped == 1
            if first:
                _LOG.warning("requests are not logged: %d wait to be written already", _WAITING)

    async def rate(self, rating: Rating, check: Callable[[Logged, Rating], None]) -> Logged | None:
        """Keep what a tenant says of its own request; returns the request where it was logged, once `check` let it pass.

        Without the log no text is kept. Raises NotFound for a request that is not this tenant's, or too long ago, what
        `check` raises, and Overloaded where it cannot be written in time.
        """
        known = rating.request_id in self._latest.get(rating.tenant, ())
        # Behind the requests that are still to be logged: it may be of one of them.
        written = self._submit(partial(self._rate, rating, check, known))
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.wrap_future(written)
        except TimeoutError:
            raise Overloaded(
                "the rating could not be written down in time", hint="Send it again later."
            ) from None

    def close(self) -> None:
        """Write what waits, for ten seconds at most; the log says how much was lost. Idempotent."""
        with self._lock:
            waiting = [*self._waiting]
        lost = len(wait(waiting, _PATIENCE).not_done)
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._say_dropped()
        if lost:
            _LOG.warning("%d requests and ratings were not written when the server ended", lost)

    def _submit(self, work: Callable[[], Done]) -> Future[Done]:
        with self._lock:
            if len(self._waiting) >= _WAITING:
                raise Overloaded("too many ratings wait to be written", hint="Send it again later.")
            future = self._writer.submit(work)
            self._waiting.add(future)
        future.add_done_callback(self._end)
        return future

    def _end(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.discard(future)
            caught_up = not self._waiting
        if caught_up:
            self._say_dropped()

    def _say_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _LOG.warning("%d requests were not logged: too many waited to be written", dropped)

    def _write(self, request: Logged, redact: Redaction) -> None:
        try:
            text = redact(request.input)
            if text is None:
                _LOG.warning("request %s is not logged: the redaction hook failed", request.request_id)
                return
            self._store.log(replace(request, input=text, output=_masked(request.output, text, redact)))
        except Exception as error:
            _LOG.error("request %s could not be logged: %s", request.request_id, error)

    def _rate(self, rating: Rating, check: Callable[[Logged, Rating], None], known: bool) -> Logged | None:
        try:
            request = self._store.request(rating.request_id)
            if not known if request is None else request.tenant != rating.tenant:
                raise NotFound(
                    f"there is no request {rating.request_id:.80}",
                    hint="Its id is in the answer, or its header X-Request-Id; old requests cannot be rated.",
                )
            if request is None or self._redact is None:
                rating = replace(rating, correction=None, comment=None)
            else:
                check(request, rating)
                correction = _corrected(rating.correction, request.labels, self._redact)
                comment = self._redact(rating.comment or "")
                rating = replace(rating, correction=correction, comment=comment or None)
            self._store.rate(rating)
        except StorageError as error:
            _LOG.error("a rating of request %s could not be kept: %s", rating.request_id, error)
            raise Overloaded("the rating could not be written down", hint="Send it again later.") from error
        return request


def _cut(request: Logged) -> Logged:
    """The request with its texts at their longest; without the entities that are beyond."""
    output = [
        one[:_LONGEST] if isinstance(one, str) else one
        for one in request.output
        if not (isinstance(one, dict) and one.get("end", 0) > _LONGEST)
    ]
    return replace(request, input=request.input[:_LONGEST], output=output)


def _masked(output: Any, text: str, redact: Redaction) -> Any:
    """An answer with its texts masked: words of the input as they are in `text`, the masked input. Labels stay: they are the
    adapter's."""
    if isinstance(output, str):
        return redact(output) or ""
    if isinstance(output, list):
        return [_masked(one, text, redact) for one in output]
    if isinstance(output, dict) and "word" in output:
        return output | {"word": text[output["start"] : output["end"]]}
    return output


def _corrected(correction: Any, labels: tuple[str, ...], redact: Redaction) -> Any:
    """A correction, a text or entities, masked: of its texts and labels all that are none of the adapter's `labels`."""
    if isinstance(correction, str):
        return correction if correction in labels else redact(correction) or ""
    if isinstance(correction, list):
        return [one | {"label": _corrected(one["label"], labels, redact)} for one in correction]
    return correction
