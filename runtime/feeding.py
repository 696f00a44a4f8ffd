"""Feeding generation: prompts under adapters by name as requests to the service, as its queue has room.

Prompts and settings of one call are checked, and its names resolved, before any of it is submitted; what a name means then
stays until its requests have ended. Whether an adapter can generate, and its prefix fits, shows when a request starts. Does
not know how text is generated or own a thread (generation does).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from adapthub.adapters.errors import InvalidInput, Overloaded
from adapthub.adapters.selections import Selection
from adapthub.adapters.suggest import did_you_mean
from adapthub.runtime.chat_templates import BASE_STYLE
from adapthub.runtime.generation import GenerationService, Prompt, ends_at
from adapthub.runtime.names import Adapter, Names, one_each
from adapthub.runtime.requests import Event, Generation
from adapthub.runtime.sampling import Constraint, Sampling
from adapthub.runtime.streams import AsyncStream, Stream, Submit

_POLL = 0.02  # seconds after which a caller with more prompts looks for room again


@dataclass(frozen=True)
class Terms:
    """What all requests of one call share. `deadline`: on the clock of time.monotonic."""

    sampling: Sampling
    tenant: str
    priority: int
    deadline: float | None


class Asked:
    """One choice of one prompt, ready to be submitted; what its name meant is kept until `release`."""

    def __init__(self, service: GenerationService, ids: Sequence[int], terms: Terms, choice: int) -> None:
        self._service, self._ids, self._terms, self._choice = service, ids, terms, choice
        self._holding: list[Names] = []  # one, until it is released
        self._selection: Selection = ()
        self._constraint: Constraint | None = None

    def hold(self, names: Names, selection: Selection) -> None:
        """Run on `selection`, which somebody took from `names`, and keep it from now on."""
        names.share(selection)
        self._selection = selection
        self._holding.append(names)

    def release(self) -> None:
        """Let go of what the name meant. Idempotent; from any thread."""
        self._constraint = None  # it may be large, and a call of many prompts goes on
        with suppress(IndexError):
            self._holding.pop().give_back([digest for _, digest in self._selection])

    def submit(self, deliver: Callable[[Event], None]) -> str:
        """Queue the request, without waking an idle engine; returns its id. May be called again if the queue was full."""
        terms = self._terms
        if self._constraint is None:  # else compiled for a queue that was full, and still at its beginning
            self._constraint = self._service.compiled(terms.sampling)
        return self._service.submit(
            self._ids,
            self._selection,
            terms.sampling,
            deliver,
            choice=self._choice,
            tenant=terms.tenant,
            priority=terms.priority,
            deadline=terms.deadline,
            constraint=self._constraint,
            wake=False,
        )


class Feed:
    """Prompts for one service, which `service` makes or finds, under the adapters that `names` knows. Thread-safe."""

    def __init__(self, names: Names, service: Callable[[], GenerationService]) -> None:
        self._names = names
        self._service = service

    def ask_all(
        self,
        prompts: Sequence[Prompt],
        adapters: Adapter | Sequence[Adapter],
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> list[Asked]:
        """Every choice of every prompt, in order, checked, names resolved: to be given to `results`, or released."""
        if isinstance(prompts, str):
            raise InvalidInput("a text stands where a list of prompts is wanted", hint="Write [prompt].")
        names = one_each(adapters, len(prompts), "prompts")
        terms = terms_of(sampling, tenant, priority, timeout)
        asked = [self._checked(*pair, terms) for pair in zip(prompts, names, strict=True)]
        taken: dict[str | None, Selection] = {}
        try:
            for name in names:
                if name not in taken:
                    taken[name] = self._names.take(name)
            for name, choices in zip(names, asked, strict=True):
                for one in choices:
                    one.hold(self._names, taken[name])
        finally:
            self._names.give_back([digest for selection in taken.values() for _, digest in selection])
        return [one for choices in asked for one in choices]

    def ask_one(
        self,
        prompt: Prompt,
        adapter: Adapter,
        sampling: Mapping[str, Any],
        tenant: str,
        priority: int,
        timeout: float | None,
    ) -> Submit:
        """What submits a prompt that has one choice, and holds its name from then until the last event."""
        terms = terms_of(sampling, tenant, priority, timeout)
        if terms.sampling.n != 1:
            raise InvalidInput(
                f"n = {terms.sampling.n}", hint="A stream has one text: leave n out, or use generate."
            )
        (one,) = self._checked(prompt, None if adapter is None else str(adapter), terms)

        def submit(deliver: Callable[[Event], None]) -> str:
            def deliver_and_release(event: Event) -> None:
                if event.finish_reason is not None:
                    one.release()
                deliver(event)

            selection = self._names.take(None if adapter is None else str(adapter))
            try:
                one.hold(self._names, selection)
                id = one.submit(deliver_and_release)
            except BaseException:
                one.release()
                raise
            finally:
                self._names.give_back([digest for _, digest in selection])
            self._service().wake()
            return id

        return submit

    def results(self, asked: Sequence[Asked]) -> list[Generation]:
        """What each comes to, in order. Raises the first error that one ends with; the others are then cancelled."""
        waiting = deque(asked)
        opened: deque[tuple[Asked, Stream]] = deque()
        results: list[Generation] = []
        try:
            while waiting or opened:
                service = self._service()
                while waiting and (not opened or service.has_room):
                    opened.append((waiting[0], Stream(waiting[0].submit, service.cancel)))
                    waiting.popleft()
                service.wake()
                one, stream = opened[0]
                if not stream.ended_within(_POLL if waiting else None):
                    continue
                try:
                    results.append(stream.result())
                except Overloaded:  # others filled the queue first
                    time.sleep(_POLL)
                    opened[0] = one, Stream(one.submit, service.cancel)
                    continue
                opened.popleft()
                one.release()
            return results
        finally:
            for _, stream in opened:
                stream.leave()
            release(asked)

    async def aresults(self, asked: Sequence[Asked]) -> list[Generation]:
        """The same for an event loop, which it does not block; a task that is cancelled cancels its requests."""
        waiting = deque(asked)
        opened: deque[tuple[Asked, AsyncStream]] = deque()
        results: list[Generation] = []
        try:
            while waiting or opened:
                service = self._service()
                while waiting and (not opened or service.has_room):
                    opened.append((waiting[0], await AsyncStream.open(waiting[0].submit, service.cancel)))
                    waiting.popleft()
                service.wake()
                one, stream = opened[0]
                if not await stream.ended_within(_POLL if waiting else None):
                    continue
                try:
                    results.append(await stream.result())
                except Overloaded:
                    await asyncio.sleep(_POLL)
                    opened[0] = one, await AsyncStream.open(one.submit, service.cancel)
                    continue
                opened.popleft()
                one.release()
            return results
        finally:
            for _, stream in opened:
                stream.leave()
            release(asked)

    def _checked(self, prompt: Prompt, name: str | None, terms: Terms) -> list[Asked]:
        """Every choice of one prompt; a conversation is put, and its answer ends, as the adapter learnt it."""
        service = self._service()
        talk = isinstance(prompt, Sequence) and bool(prompt) and isinstance(prompt[0], Mapping)
        style = self._names.chat_style(name) if talk else BASE_STYLE
        ids = service.prompt_ids(prompt, style=style)
        terms = replace(terms, sampling=style.ending(terms.sampling, service.tokenizer))
        service.engine.check_prompt(ids, terms.sampling.max_new_tokens)
        return [Asked(service, ids, terms, choice) for choice in range(terms.sampling.n)]


def release(asked: Sequence[Asked]) -> None:
    """Let go of what their names meant."""
    for one in asked:
        one.release()


def terms_of(given: Mapping[str, Any], tenant: str, priority: int, timeout: float | None) -> Terms:
    """What a call asks for. Raises InvalidInput for a setting that is unknown or cannot work."""
    known = [field.name for field in fields(Sampling)]
    for name in given:
        if name not in known:
            raise InvalidInput(f"{name!r} is no setting of generation", hint=did_you_mean(name, known))
    return Terms(Sampling(**given), tenant, priority, ends_at(timeout))
