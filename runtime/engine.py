"""The generation engine: one `step()` is one pass of the base over decode rows and prefill chunks of many requests, each on
adapters of its own.

Requests wait in the scheduler until their adapters are resident and pages are free. A running request is a row: its tokens,
and the pages that hold the keys and values of those computed so far. Whatever is not computed yet is computed next, in
chunks as the step's budget allows: a prompt, one new token, or both again after a preemption; so prefill, decode and
recompute are one case. When pages run out, cached prompts go first, then idle prefixes, then the latest row is preempted.

One thread steps. `submit` and `cancel` may be called from any. Does not tokenise prompts, resolve names, read files, or
wait for anything.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import cast

import torch

from adapthub.adapters.attach import AdaptedBase, Selection
from adapthub.adapters.delta import Segment
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput, SamplingError
from adapthub.adapters.memory import memory_errors
from adapthub.runtime.attention import PagedRow, paged_batch, positions
from adapthub.runtime.kv import KV, Held, OutOfPages, Pages
from adapthub.runtime.prefix_cache import PrefixCache
from adapthub.runtime.requests import Event, FinishReason, Request, Usage
from adapthub.runtime.residency import Residency
from adapthub.runtime.sampling import Sampled, Sampler, sample
from adapthub.runtime.scheduler import Scheduler, Waiting
from adapthub.runtime.text_stream import TextStream

_LOG = logging.getLogger(__name__)
_EVICTED = 64  # the part of all pages, one in so many, that cached prompts give up at once
_PREFETCHED = 16  # waiting requests whose adapters are fetched ahead


@dataclass(eq=False)
class _Row:
    """A request that runs. `tokens`: prompt and generated; `held.length` of them have keys and values."""

    request: Request
    waiting: Waiting
    sampler: Sampler
    stream: TextStream
    tokens: list[int]
    held: Held = field(default_factory=Held)
    cached: int = 0
    charged: bool = False

    @property
    def pending(self) -> int:
        """Tokens that the next steps compute: one while decoding, more while filling."""
        return len(self.tokens) - self.held.length

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def root(self) -> tuple[str, Selection]:
        """What its pages may be shared with: the same tenant, adapters and weights."""
        return self.request.tenant, tuple(sorted(self.request.selection, key=lambda term: term[1]))


@dataclass(frozen=True)
class _Part:
    """The next `count` tokens of a row, computed in one pass."""

    row: _Row
    count: int

    @property
    def completes(self) -> bool:
        """Whether the row's last token is among them, so that another can be sampled."""
        return self.count == self.row.pending


@dataclass
class _PrefixPages:
    """A prefix adapter's pages, held by the engine, and the rows that read them."""

    pages: list[int]
    length: int
    rows: int = 0


@dataclass(frozen=True)
class Load:
    """How busy the engine is: requests, pages (used ones include cached prompts), and steps so far."""

    running: int
    waiting: int
    pages: int
    free_pages: int
    steps: int


class Engine:
    """Continuous batching over one adapted base.

    `kv` is the pool of keys and values, in `pages`; the base's attention is set to it (`attention.serves`). `stream`
    makes the detokeniser of a request. `max_rows` requests run at once; a step computes at most `step_tokens` tokens; a
    row's context is at most `context` tokens, prefix included.
    """

    def __init__(
        self,
        adapted: AdaptedBase,
        residency: Residency,
        *,
        kv: KV,
        pages: Pages,
        stream: Callable[[Request], TextStream],
        eos_ids: frozenset[int],
        context: int,
        max_rows: int = 64,
        step_tokens: int = 512,
        scheduler: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._adapted = adapted
        self._residency = residency
        self._model = adapted.base.model
        self._vocabulary = cast(torch.nn.Embedding, self._model.get_input_embeddings()).num_embeddings
        self._device = adapted.base.device
        self._kv = kv
        self._pages = pages
        self._cache = PrefixCache(pages, kv.page_size)
        self._stream = stream
        self._eos_ids = eos_ids
        self._context = context
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self._clock = clock
        self._scheduler = Scheduler(clock=clock) if scheduler is None else scheduler
        self._requests: dict[str, Request] = {}  # those that wait
        self._preempted: dict[str, _Row] = {}  # of those that wait, the ones that ran already
        self._running: dict[str, _Row] = {}  # in order of admission
        self._prefixes: dict[str, _PrefixPages] = {}
        self._steps = 0
        self.preemptions = 0
        self._inbox: deque[Callable[[], None]] = deque()
        self._known: set[str] = set()
        self._closed: AdaptHubError | None = None
        self._lock = threading.Lock()

    @property
    def load(self) -> Load:
        """A snapshot; exact between steps."""
        return Load(
            running=len(self._running),
            waiting=len(self._requests),
            pages=self._pages.count,
            free_pages=self._pages.free,
            steps=self._steps,
        )

    @property
    def busy(self) -> bool:
        """Whether a step would find something to do or to wait for."""
        return bool(self._inbox or self._running or self._requests)

    def submit(self, request: Request) -> None:
        """Queue a request; from any thread. Its events, refusal by a full queue included, come to `deliver`.

        Raises InvalidInput for a prompt that is empty, has ids outside the vocabulary or does not fit with max_new_tokens
        into the context or the pages, for a tenant, priority or deadline that is none, and for an id that is in use; what
        `close` was given once that was called.
        """
        self._check(request)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if request.id in self._known:
                raise InvalidInput(f"a request {request.id!r} runs already", hint="Choose another id.")
            self._known.add(request.id)
            self._inbox.append(lambda: self._enqueue(request))

    def cancel(self, id: str) -> None:
        """End a request within one step; from any thread. It gets its last event, "cancelled".

        Raises InvalidInput for a request that has ended or never was.
        """
        with self._lock:
            if id not in self._known:
                raise InvalidInput(f"no request {id!r} runs or waits: it has ended, or never was")
        self._inbox.append(lambda: self._cancel(id))

    def step(self) -> bool:
        """One pass: take in what came, admit what fits, compute, sample, deliver. False if there was nothing to compute."""
        self._take_in()
        self._expire()
        self._admit()
        parts = self._plan()
        if parts:
            self._finish_parts(parts, self._compute(parts))
            self._steps += 1
        return bool(parts)

    def fail_all(self, error: AdaptHubError) -> None:
        """End every request with `error`: the engine cannot go on."""
        self._take_in()
        for id in [*self._requests, *self._running]:
            try:
                self._end(id, "error", error)
            except (
                Exception
            ):  # what broke the engine may show here again; the others are to hear of it all the same
                _LOG.exception("request %s could not be ended in order", id)

    def close(self, error: AdaptHubError) -> None:
        """End every request with `error`, and take no more; on the thread that stepped."""
        with self._lock:
            self._closed = error
        self.fail_all(error)

    def clear_cache(self) -> None:
        """Give back the pages of cached prompts and of prefixes that no row reads."""
        self._cache.evict(self._pages.count)
        self._drop_idle_prefixes()

    # -- taking requests in ------------------------------------------------------------------------------------------

    def _check(self, request: Request) -> None:
        if not request.prompt_ids:
            raise InvalidInput("the prompt is empty: there is nothing to continue")
        if outside := [id for id in request.prompt_ids if not 0 <= id < self._vocabulary]:
            raise InvalidInput(f"token id {outside[0]} is outside the vocabulary of {self._vocabulary}")
        self._check_room(request, prefix=0)
        # What the queue is sorted by: it belongs to all tenants, and must not break by one.
        if not isinstance(request.tenant, str):
            raise InvalidInput(f"tenant is {request.tenant!r}", hint="Give a text.")
        if not isinstance(request.priority, int):
            raise InvalidInput(f"priority is {request.priority!r}", hint="Give a whole number.")
        deadline = request.deadline
        if deadline is not None and (not isinstance(deadline, int | float) or math.isnan(deadline)):
            raise InvalidInput(f"deadline is {deadline!r}", hint="Give a time in seconds.")

    def _check_room(self, request: Request, prefix: int) -> None:
        """Raise InvalidInput where the prompt and what it may grow by exceed the context, or all the pages there are."""
        count, new = len(request.prompt_ids), request.sampling.max_new_tokens
        pool = (self._pages.count - self._pages_for(prefix)) * self._kv.page_size
        room = min(self._context - prefix, pool)
        if count + new > room:
            behind = f" behind a prefix of {prefix}" if prefix else ""
            raise InvalidInput(
                f"the prompt has {count} tokens and max_new_tokens is {new}; together at most {room} fit{behind}",
                hint="Shorten the prompt or lower max_new_tokens.",
            )

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._kv.page_size)

    def _take_in(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _enqueue(self, request: Request) -> None:
        waiting = Waiting(
            id=request.id,
            tenant=request.tenant,
            digests=request.digests,
            cost=len(request.prompt_ids),
            arrived=self._clock(),
            priority=request.priority,
            deadline=request.deadline,
        )
        self._requests[request.id] = request
        try:
            self._scheduler.submit(waiting)
        except AdaptHubError as error:
            self._end(request.id, "error", error)

    def _cancel(self, id: str) -> None:
        if id in self._requests or id in self._running:
            self._end(id, "cancelled")

    def _expire(self) -> None:
        now = self._clock()
        for waiting in self._scheduler.expired():
            self._end(waiting.id, "deadline")
        for row in list(self._running.values()):
            if row.request.deadline is not None and row.request.deadline <= now:
                self._end(row.request.id, "deadline")

    # -- admission ---------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start what fits, in the scheduler's order."""
        self._fetch_ahead()
        ready = cache(self._residency.ready)  # many wait for the same adapters
        while len(self._running) < self._max_rows:
            waiting = self._scheduler.choose(
                lambda waiting: ready(waiting.digests) and self._fits(waiting),
                lambda waiting: ready(waiting.digests),
            )
            if waiting is None or not self._start(waiting):
                return

    def _fetch_ahead(self) -> None:
        """Ask for the adapters of those that come next; end those whose adapter cannot be loaded."""
        for waiting in self._scheduler.upcoming(_PREFETCHED):
            try:
                self._residency.want(waiting.digests)
            except Exception as error:  # whatever a stranger's file can cause
                self._end(waiting.id, "error", _as_ours(error, "an adapter cannot be loaded"))

    def _fits(self, waiting: Waiting) -> bool:
        """Whether there are pages for its tokens beside one more for every row."""
        lacking = self._needed(waiting) - self._pages.free
        if lacking > 0:
            self._reclaim(lacking)  # perhaps its own prefix
        return self._needed(waiting) <= self._pages.free or not self._running

    def _needed(self, waiting: Waiting) -> int:
        """Pages: for its tokens, its prefix if that is not there yet, and one more for every row."""
        row = self._preempted.get(waiting.id)
        tokens = len(row.tokens) if row else waiting.cost
        attached = self._adapted.attached if waiting.digests else {}
        prefixes = [
            prefix
            for digest in waiting.digests
            if digest not in self._prefixes and digest in attached and (prefix := attached[digest].prefix)
        ]
        own = sum(self._pages_for(prefix.length) for prefix in prefixes)
        return self._pages_for(tokens + 1) + own + len(self._running)

    def _start(self, waiting: Waiting) -> bool:
        """Make it a row, with what the prefix cache has of its tokens; False if its adapters have just been evicted."""
        request = self._requests[waiting.id]
        row = self._preempted.get(waiting.id) or _Row(
            request=request,
            waiting=waiting,
            sampler=Sampler(
                request.sampling, request.prompt_ids, self._eos_ids, request.constraint, request.choice
            ),
            stream=self._stream(request),
            tokens=list(request.prompt_ids),
        )
        try:
            self._residency.hold(request.digests)
        except AdapterNotFound:  # or forgotten: the next `want` says so
            self._scheduler.put_back(waiting)
            return False
        self._preempted.pop(waiting.id, None)
        del self._requests[waiting.id]
        self._running[waiting.id] = row
        try:
            self._adapted.check_generation(request.selection)
            row.held = self._held(request)
        except Exception as error:
            self._end(waiting.id, "error", _as_ours(error, "the request could not start"))
            return True
        row.held.pages = self._cache.match(row.root, row.tokens)
        row.held.length = len(row.held.pages) * self._kv.page_size
        if not row.charged:  # after a preemption it finds what it computed itself
            row.cached = row.held.length
            self._charge_input(row)
        return True

    def _held(self, request: Request) -> Held:
        """Holding nothing but the pages of its prefix adapter, if it has one. Raises InvalidInput where it does not fit."""
        for digest in request.digests:
            prefix = self._adapted.attached[digest].prefix
            if prefix is None:
                continue
            self._check_room(request, prefix.length)
            if digest not in self._prefixes:
                pages = self._take_pages(self._pages_for(prefix.length))
                try:
                    self._kv.write_prefix(prefix, pages)
                except Exception:
                    self._pages.give_back(pages)
                    raise
                self._prefixes[digest] = _PrefixPages(pages, prefix.length)
            shared = self._prefixes[digest]
            shared.rows += 1
            return Held(prefix_pages=shared.pages, prefix_length=shared.length)
        return Held()

    # -- pages -------------------------------------------------------------------------------------------------------

    def _take_pages(self, count: int) -> list[int]:
        """Pages for a prefix, which `_fits` found room for. Raises InvalidInput where nothing runs and all are too few."""
        while True:
            try:
                return self._pages.take(count)
            except OutOfPages:
                if not self._reclaim(count - self._pages.free):
                    raise InvalidInput(
                        f"the prefix needs {count} pages of keys and values; there are {self._pages.count}"
                    ) from None

    def _make_room(self, row: _Row, count: int, planned: Sequence[_Row]) -> bool:
        """Pages for the row's next `count` tokens; False if the row itself had to be preempted."""
        missing = row.held.missing(count, self._kv.page_size)
        while missing:
            try:
                row.held.pages += self._pages.take(
                    missing, after=row.held.pages[-1] if row.held.pages else None
                )
                return True
            except OutOfPages:
                if not self._reclaim(missing - self._pages.free):
                    self._preempt_latest(planned)
                    if row.request.id not in self._running:
                        return False
        return True

    def _reclaim(self, count: int) -> bool:
        """Free pages that only wait to be used again; False if there are none."""
        # Some at once: what was computed together lies together, and so does what takes its place.
        return self._cache.evict(max(count, self._pages.count // _EVICTED)) > 0 or self._drop_idle_prefixes()

    def _drop_idle_prefixes(self) -> bool:
        idle = [digest for digest, prefix in self._prefixes.items() if prefix.rows == 0]
        for digest in idle:
            self._pages.give_back(self._prefixes.pop(digest).pages)
        return bool(idle)

    def _preempt_latest(self, planned: Sequence[_Row]) -> None:
        """Send the latest row of the lowest priority back to wait, its pages freed; its tokens are computed again."""
        rows = [row for row in self._running.values() if row not in planned]
        lowest = min(row.request.priority for row in rows)
        row = [row for row in rows if row.request.priority == lowest][-1]
        self.preemptions += 1
        self._stop(row)
        self._requests[row.request.id] = row.request
        self._preempted[row.request.id] = row
        self._scheduler.put_back(row.waiting)

    def _stop(self, row: _Row) -> None:
        """Out of the running ones: whatever it held is given back."""
        del self._running[row.request.id]
        self._pages.give_back(row.held.pages)
        if row.held.prefix_length:
            for digest in row.request.digests:
                if digest in self._prefixes:
                    self._prefixes[digest].rows -= 1
        row.held = Held()
        self._residency.release(row.request.digests)

    # -- one pass ----------------------------------------------------------------------------------------------------

    def _plan(self) -> list[_Part]:
        """What this step computes: every decoding row's token, then as much of the prompts as the budget leaves."""
        budget = self._step_tokens
        parts: list[_Part] = []
        planned: list[_Row] = []
        for row in sorted(self._running.values(), key=lambda row: row.pending > 1):
            count = min(row.pending, budget)
            if not count:
                break
            if row.request.id in self._running and self._make_room(row, count, planned):
                parts.append(_Part(row, count))
                planned.append(row)
                budget -= count
        return sorted(parts, key=lambda part: part.row.request.selection)

    def _compute(self, parts: Sequence[_Part]) -> dict[str, torch.Tensor | AdaptHubError]:
        """Logits [vocabulary] in float32 of every part that completes its row, by request. A failing adapter fails alone."""
        try:
            return self._pass(parts)
        except Exception as error:
            groups = {part.row.request.selection for part in parts}
            if len(groups) == 1:
                return {part.row.request.id: _as_ours(error, "the pass failed") for part in parts}
            results: dict[str, torch.Tensor | AdaptHubError] = {}
            for selection in groups:
                results |= self._compute([part for part in parts if part.row.request.selection == selection])
            return results

    def _pass(self, parts: Sequence[_Part]) -> dict[str, torch.Tensor | AdaptHubError]:
        rows = [PagedRow(part.row.held, part.count) for part in parts]
        ids = [
            token
            for part in parts
            for token in part.row.tokens[part.row.held.length : part.row.held.length + part.count]
        ]
        ends = torch.tensor([part.count for part in parts]).cumsum(0) - 1
        complete = [part for part in parts if part.completes]
        last = ends[[part.completes for part in parts]]
        with (
            torch.inference_mode(),
            memory_errors("running a step", "Lower step_tokens or max_rows."),
            self._adapted.applying(
                _segments([(part.row.request.selection, part.count) for part in parts]),
                _segments([(part.row.request.selection, 1) for part in complete]),
            ),
            paged_batch(self._kv, rows),
        ):
            logits = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=positions(rows).to(self._device),
                use_cache=False,
                logits_to_keep=last.to(self._device),
            ).logits[0]
            logits = (
                logits.float()
            )  # here: once the batch has ended the rows count as longer, whatever fails then
        return {part.row.request.id: row for part, row in zip(complete, logits, strict=True)}

    # -- what comes of it --------------------------------------------------------------------------------------------

    def _finish_parts(self, parts: Sequence[_Part], results: dict[str, torch.Tensor | AdaptHubError]) -> None:
        """Keep finished prompts for others, and give every completed row its next token."""
        sampled: list[tuple[_Row, torch.Tensor]] = []
        for part in parts:
            row, result = part.row, results.get(part.row.request.id)
            if isinstance(result, AdaptHubError):
                self._end(row.request.id, "error", result)
                continue
            if result is not None:
                sampled.append((row, result))
        if not sampled:
            return
        tokens = sample(torch.stack([logits for _, logits in sampled]), [row.sampler for row, _ in sampled])
        for (row, _), token in zip(sampled, tokens, strict=True):
            if isinstance(token, SamplingError):
                self._end(row.request.id, "error", token)
            else:
                if row.generated == 0:
                    self._cache.insert(row.root, row.tokens, row.held.pages)
                self._scheduler.charge(row.request.tenant, output_tokens=1)
                self._give(row, token)

    def _charge_input(self, row: _Row) -> None:
        """Prompt tokens that will be computed, once, and before another is chosen; what a preemption computes again is not
        the tenant's fault.
        """
        row.charged = True
        self._scheduler.charge(row.request.tenant, input_tokens=len(row.request.prompt_ids) - row.cached)

    def _give(self, row: _Row, token: Sampled) -> None:
        """Append a token to its row, and its text to what was delivered; end the row if that was the last."""
        row.tokens.append(token.token_id)
        text = "" if row.sampler.ended_by == token.token_id else row.stream.push(token.token_id)
        reason = "stop" if row.stream.stopped else row.sampler.finish_reason
        if reason is not None:
            self._end(row.request.id, reason, text=text, tokens=(token,))
        else:
            self._deliver(row.request, Event(text, (token,)))

    def _deliver(self, request: Request, event: Event) -> None:
        """Nothing that a receiver does reaches the others; one that fails is taken to have left."""
        try:
            request.deliver(event)
        except Exception:
            _LOG.exception("the receiver of request %s failed", request.id)
            if event.finish_reason is None:
                self._inbox.append(partial(self._cancel, request.id))

    def _end(
        self,
        id: str,
        reason: FinishReason,
        error: AdaptHubError | None = None,
        *,
        text: str = "",
        tokens: tuple[Sampled, ...] = (),
    ) -> None:
        """The last event of a request, waiting or running; everything that it held is given back first."""
        row = self._running.get(id) or self._preempted.pop(id, None)
        request = row.request if row else self._requests[id]
        rest = ""
        try:
            if id in self._running:
                assert row is not None
                if error is None:  # else what it computed may be broken
                    self._cache.insert(row.root, row.tokens[: row.held.length], row.held.pages)
                self._stop(row)
            else:
                del self._requests[id]
                self._scheduler.remove(id)
                self._unwant(request)
            rest = row.stream.finish() if row else ""
        finally:  # whatever fails, nobody waits for an event that never comes
            self._running.pop(id, None)
            with self._lock:
                self._known.discard(id)
            usage = Usage(
                prompt_tokens=len(request.prompt_ids),
                cached_tokens=row.cached if row else 0,
                completion_tokens=row.generated if row else 0,
            )
            self._deliver(request, Event(text + rest, tokens, reason, usage, error))

    def _unwant(self, request: Request) -> None:
        """Nobody waits for its adapters any more, unless another request does: that keeps its place."""
        if request.digests and all(other.digests != request.digests for other in self._requests.values()):
            self._residency.unwant(request.digests)


def _segments(runs: Sequence[tuple[Selection, int]]) -> list[Segment]:
    """Neighbours with the same adapters as one segment; `runs`: (selection, tokens), sorted."""
    segments: list[Segment] = []
    start = 0
    for selection, count in runs:
        if segments and segments[-1].terms == selection:
            segments[-1] = Segment(segments[-1].start, start + count, selection)
        else:
            segments.append(Segment(start, start + count, selection))
        start += count
    return segments


def _as_ours(error: Exception, what: str) -> AdaptHubError:
    if isinstance(error, AdaptHubError):
        return error
    failure = AdaptHubError(
        f"{what}: {type(error).__name__}: {error}",
        hint="Report the base, the adapters and the request.",
    )
    failure.__cause__ = error
    return failure
