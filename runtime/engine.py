"""The generation engine: one `step()` is one pass of the base over decode rows and prefill chunks of many requests, each on
adapters of its own.

Requests wait in the scheduler until their adapters are resident and pages are free. A running request is a row: its tokens,
and the pages that hold the keys and values of those computed so far. Whatever is not computed yet is computed next, in
chunks as the step's budget allows: a prompt, one new token, or both again after a preemption; so prefill, decode and
recompute are one case. When no page is left to free (`paging`), a row is preempted.

One thread steps. `submit` and `cancel` may be called from any. Does not tokenise prompts, resolve names, read files, count
pages, call the model, or wait for anything.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch

from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput, SamplingError
from adapthub.runtime.forward import Forward, Results
from adapthub.runtime.graphs import graphs_for
from adapthub.runtime.inbox import Inbox
from adapthub.runtime.kv import KV, Held, Pages
from adapthub.runtime.pace import Pace
from adapthub.runtime.paging import Paging
from adapthub.runtime.requests import Event, FinishReason, Request, Usage, as_ours
from adapthub.runtime.residency import Residency
from adapthub.runtime.rows import Part, Row
from adapthub.runtime.sampler import Sampler, sample
from adapthub.runtime.sampling import Sampled
from adapthub.runtime.scheduler import Scheduler, Waiting
from adapthub.runtime.text_stream import TextStream
from adapthub.runtime.turns import divided, first_to_yield, has_row, in_turn

_LOG = logging.getLogger(__name__)
_PREFETCHED = 16  # waiting requests whose adapters are fetched ahead
_PROMPT = 32  # tokens of a tenant's prompts that every step may compute, however long it takes
_LITTLE = 64  # the same, for a tenant that has no more


@dataclass(frozen=True)
class Load:
    """How busy the engine is: requests, tokens whose keys and values the running ones hold, pages (used ones include cached
    prompts), and so far: steps, and rows that had to make room for others."""

    running: int
    tokens: int
    waiting: int
    pages: int
    free_pages: int
    steps: int
    preemptions: int


class Engine:
    """Continuous batching over one adapted base.

    `kv` is the pool of keys and values, in `pages`; the base's attention is set to it (`attention.serves`). `stream`
    makes the detokeniser of a request. `max_rows` requests run at once; a step computes at most `step_tokens` tokens, and
    where there are several tenants no more of prompts than make it `step_seconds` long; a row's context is at most
    `context` tokens, prefix included. Where prompts are read whole (encoder_decoder) there is no `kv`, and `whole` computes.
    """

    def __init__(
        self,
        adapted: AdaptedBase,
        residency: Residency,
        *,
        kv: KV | None,
        pages: Pages,
        stream: Callable[[Request], TextStream],
        eos_ids: frozenset[int],
        context: int,
        max_rows: int = 64,
        step_tokens: int = 512,
        step_seconds: float = math.inf,
        scheduler: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
        whole: tuple[Paging, Forward] | None = None,
    ) -> None:
        self._adapted = adapted
        self._residency = residency
        self._vocabulary = cast(torch.nn.Embedding, adapted.base.model.get_input_embeddings()).num_embeddings
        self._pages = pages
        if whole is None:
            assert kv is not None
            graphs = graphs_for(adapted, kv, context=context, max_rows=max_rows, max_tokens=step_tokens)
            whole = Paging(adapted, kv, pages, context), Forward(adapted, kv, graphs)
        self._paging, self.forward = whole
        self._stream = stream
        self._eos_ids = eos_ids
        self._max_rows = max_rows
        self._step_tokens = step_tokens
        self._step_seconds = step_seconds
        self._pace = Pace()
        self._shares: Mapping[str, float] = {}
        self._clock = clock
        self._scheduler = Scheduler(clock=clock) if scheduler is None else scheduler
        self._inbox = Inbox()
        self._requests: dict[str, Request] = {}  # those that wait
        self._preempted: dict[str, Row] = {}  # of those that wait, the ones that ran already
        self._running: dict[str, Row] = {}  # in order of admission
        self._steps = 0
        self.preemptions = 0

    @property
    def load(self) -> Load:
        """A snapshot; exact between steps."""
        return Load(
            running=len(self._running),
            tokens=sum(row.held.length for row in list(self._running.values())),
            waiting=len(self._requests) + len(self._inbox),
            pages=self._pages.count,
            free_pages=self._pages.free,
            steps=self._steps,
            preemptions=self.preemptions,
        )

    @property
    def busy(self) -> bool:
        """Whether a step would find something to do or to wait for."""
        return bool(self._inbox or self._running or self._requests)

    def room(self, prefix: int = 0, prompt: int = 0) -> int:
        """Tokens that one request may have behind a prefix and a prompt of so many; below 0 where these are too long."""
        return self._paging.room(prefix, prompt)

    def check_prompt(self, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
        """Raises InvalidInput for a prompt that is empty, has ids outside the vocabulary or does not fit with
        max_new_tokens into the context or the pages."""
        if not prompt_ids:
            raise InvalidInput("the prompt is empty: there is nothing to continue")
        self.check_ids(prompt_ids)
        self._paging.check_room(len(prompt_ids), max_new_tokens)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises InvalidInput for ids outside the vocabulary."""
        if outside := [id for id in ids if not 0 <= id < self._vocabulary]:
            raise InvalidInput(f"token id {outside[0]} is outside the vocabulary of {self._vocabulary}")

    def submit(self, request: Request) -> None:
        """Queue a request; from any thread. Its events, refusal by a full queue included, come to `deliver`.

        Raises InvalidInput for a prompt that is empty, has ids outside the vocabulary or does not fit with max_new_tokens
        into the context or the pages, for a tenant, priority or deadline that is none, and for an id that is in use; what
        `close` was given once that was called.
        """
        self._check(request)
        self._inbox.put(request)

    def cancel(self, id: str) -> None:
        """End a request within one step; from any thread. It gets its last event, "cancelled".

        Raises InvalidInput for a request that has ended or never was.
        """
        self._inbox.cancel(id)

    def step(self) -> bool:
        """One pass: take in what came, admit what fits, compute, sample, deliver. False if there was nothing to compute."""
        self._take_in()
        self._expire()
        self._shares = self._scheduler.shares(row.request.tenant for row in self._running.values())
        self._admit()
        parts = self._plan()
        if parts:
            began, captures = self._clock(), self.forward.captures
            self._finish(self.forward.compute(parts))
            if self.forward.captures == captures:  # else it says nothing of those to come
                self._pace.seen(sum([part.count for part in parts]), self._clock() - began)
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
        self.clear_cache()  # it may hold what was not computed

    def close(self, error: AdaptHubError) -> None:
        """End every request with `error`, and take no more; on the thread that stepped."""
        self._inbox.close(error)
        self.fail_all(error)

    def clear_cache(self) -> None:
        """Give back the pages of cached prompts and of prefixes that no row reads."""
        self._paging.clear()

    # -- taking requests in ------------------------------------------------------------------------------------------

    def _check(self, request: Request) -> None:
        self.check_prompt(request.prompt_ids, request.sampling.max_new_tokens)
        # What the queue is sorted by: it belongs to all tenants, and must not break by one.
        if not isinstance(request.tenant, str):
            raise InvalidInput(f"tenant is {request.tenant!r}", hint="Give a text.")
        if not isinstance(request.priority, int):
            raise InvalidInput(f"priority is {request.priority!r}", hint="Give a whole number.")
        deadline = request.deadline
        if deadline is not None and (not isinstance(deadline, int | float) or math.isnan(deadline)):
            raise InvalidInput(f"deadline is {deadline!r}", hint="Give a time in seconds.")

    def _take_in(self) -> None:
        for asked in self._inbox.take():
            if isinstance(asked, Request):
                self._enqueue(asked)
            elif asked in self._requests or asked in self._running:
                self._end(asked, "cancelled")

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
        if request.deadline is not None and request.deadline <= waiting.arrived:
            self._end(request.id, "deadline")
            return
        try:
            self._scheduler.submit(waiting)
        except AdaptHubError as error:
            self._end(request.id, "error", error)

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
                self._has_row_for,
            )
            if waiting is None or not self._start(waiting):
                return

    def _has_row_for(self, tenant: str) -> bool:
        brisk = self._pace.tokens(self._step_seconds) - _PROMPT
        return has_row(tenant, self._running.values(), shares=self._shares, rows=self._max_rows, brisk=brisk)

    def _fetch_ahead(self) -> None:
        """Ask for the adapters of those that come next; end those whose adapter cannot be loaded."""
        for waiting in self._scheduler.upcoming(_PREFETCHED):
            try:
                self._residency.want(waiting.digests)
            except Exception as error:  # whatever a stranger's file can cause
                self._end(waiting.id, "error", as_ours(error, "an adapter cannot be loaded"))

    def _fits(self, waiting: Waiting) -> bool:
        """Whether there are pages for its tokens beside what every row fills and one more; always, where none runs."""
        request, row = self._requests[waiting.id], self._preempted.get(waiting.id)
        tokens = row.tokens if row else request.prompt_ids
        spare = sum(1 + self._paging.missing(row.held, row.pending) for row in self._running.values())
        return self._paging.fits(request, tokens, spare) or not self._running

    def _start(self, waiting: Waiting) -> bool:
        """Make it a row, with what the prefix cache has of its tokens; False if its adapters have just been evicted."""
        request = self._requests[waiting.id]
        row = self._preempted.get(waiting.id) or Row(
            request=request,
            waiting=waiting,
            sampler=Sampler(
                request.sampling,
                self.forward.read(request),
                self._eos_ids,
                request.constraint,
                request.choice,
                self.forward.penalty,
            ),
            stream=self._stream(request),
            tokens=list(request.prompt_ids),
            started=self._clock(),
        )
        try:
            self._residency.hold(request.digests)
        except AdapterNotFound:  # or forgotten: the next `want` says so
            self._scheduler.put_back(waiting)
            return False
        try:
            self.forward.check(request.selection)
            row.held = self._paging.open(request)
        except Exception as error:
            self._residency.release(request.digests)
            self._end(waiting.id, "error", as_ours(error, "the request could not start"))
            return True
        self._preempted.pop(waiting.id, None)
        del self._requests[waiting.id]
        self._running[waiting.id] = row
        gained = self._paging.reuse(request, row.tokens, row.held)
        if not row.restarted:  # else it finds what it computed itself
            row.cached = gained
            self._charge_input(row)
        return True

    # -- what a step computes ----------------------------------------------------------------------------------------

    def _plan(self) -> list[Part]:
        """What this step computes: every decoding row's token, then as much of the prompts as the budget leaves."""
        budget = self._step_tokens
        left = self._prompt_tokens()
        parts: list[Part] = []
        for row in in_turn(self._running.values()):
            if row.request.id not in self._running:  # preempted for one before it
                continue
            tenant, pending, generated = row.request.tenant, row.pending, row.generated
            if pending > 1 and not left[tenant]:
                continue
            if not generated and budget:  # others may be computing the same prompt, in this pass too
                self._go_on_from_others(row)
                pending = row.pending
            filling = pending > 1
            count = min(pending, budget, left[tenant] if filling else 1)
            if not count:
                break
            if self._make_room(row, count, parts):
                parts.append(Part(row, count))
                budget -= count
                if filling:
                    left[tenant] -= count
                if not generated:
                    self._paging.keep(row.request, row.tokens, row.held, ahead=count)
        return sorted(parts, key=lambda part: part.row.request.selection)

    def _prompt_tokens(self) -> dict[str, int]:
        """How much of each tenant's prompts this step computes: as much as it has time for where several tenants are served;
        and of everybody's so much that it is worth a step, or all that they have if it is little."""
        needs: Counter[str] = Counter()
        decoding = 0
        for row in self._running.values():
            if (pending := row.pending) > 1:
                needs[row.request.tenant] += pending
            else:
                decoding += 1
        seconds = self._step_seconds if len(self._shares) > 1 else math.inf
        together = min(self._step_tokens, self._pace.tokens(seconds)) - decoding
        worth, most = max(_PROMPT, self._pace.fixed_tokens), self._step_tokens / max(1, len(needs))
        least = {tenant: min(most, need if need <= _LITTLE else worth) for tenant, need in needs.items()}
        parts = divided(together, needs, self._shares, least)
        return {
            tenant: max(1, int(part)) for tenant, part in parts.items()
        }  # many tenants: some go on all the same

    def _go_on_from_others(self, row: Row) -> None:
        gained = self._paging.reuse(row.request, row.tokens, row.held)
        if gained and not row.restarted:
            row.cached += gained
            self._scheduler.charge(row.request.tenant, input_tokens=-gained)  # its tenant paid for all of it

    def _make_room(self, row: Row, count: int, parts: Sequence[Part]) -> bool:
        """Pages for the row's next `count` tokens; False if the row itself had to be preempted. No row of `parts` is."""
        while not self._paging.grow(row.held, count):
            self._preempt([part.row for part in parts])
            if row.request.id not in self._running:
                return False
        return True

    def _preempt(self, planned: Sequence[Row]) -> None:
        """Send the row that yields first back to wait, its pages freed; its tokens are computed again."""
        row = first_to_yield([row for row in self._running.values() if row not in planned], self._shares)
        self.preemptions += 1
        row.restarted = True
        self._stop(row)
        self._requests[row.request.id] = row.request
        self._preempted[row.request.id] = row
        self._scheduler.put_back(row.waiting)

    def _stop(self, row: Row) -> None:
        """Out of the running ones: whatever it held is given back."""
        del self._running[row.request.id]
        self._paging.close(row.request, row.held)
        row.held = Held()
        self._residency.release(row.request.digests)

    # -- what comes of it --------------------------------------------------------------------------------------------

    def _finish(self, results: Results) -> None:
        """End the rows that failed, and give every completed one its next token."""
        for id, error in results.errors.items():
            self._end(id, "error", error)
        if results.logits is None:
            return
        rows = [self._running[id] for id in results.ids]
        tokens = sample(results.logits, [row.sampler for row in rows])
        generated: Counter[str] = Counter()
        for row, token in zip(rows, tokens, strict=True):
            if isinstance(token, SamplingError):
                self._end(row.request.id, "error", token)
            else:
                generated[row.request.tenant] += 1
                self._give(row, token)
        for tenant, count in generated.items():
            self._scheduler.charge(tenant, output_tokens=count)

    def _charge_input(self, row: Row) -> None:
        """Prompt tokens that will be computed, once, and before another is chosen; what a preemption computes again is not
        the tenant's fault.
        """
        self._scheduler.charge(row.request.tenant, input_tokens=len(row.request.prompt_ids) - row.cached)

    def _give(self, row: Row, token: Sampled) -> None:
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
                self._inbox.cancel(request.id)

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
                if error is None:
                    self._paging.keep(row.request, row.tokens, row.held)
                elif row.held.pages:  # what it computed may be broken
                    self._paging.distrust(row.request)
                self._stop(row)
            else:
                del self._requests[id]
                self._scheduler.remove(id)
                self._unwant(request)
            rest = row.stream.finish() if row else ""
        finally:  # whatever fails, nobody waits for an event that never comes
            self._running.pop(id, None)
            self._inbox.ended(id)
            usage = Usage(
                prompt_tokens=len(request.prompt_ids) if row else 0,  # what never ran used nothing
                cached_tokens=row.cached if row else 0,
                completion_tokens=row.generated if row else 0,
            )
            started = row.started if row else None
            self._deliver(request, Event(text + rest, tokens, reason, usage, error, started))

    def _unwant(self, request: Request) -> None:
        """Nobody waits for its adapters any more, unless another request does: that keeps its place."""
        if request.digests and all(other.digests != request.digests for other in self._requests.values()):
            self._residency.unwant(request.digests)
