"""Feeding generation: prompts under adapters by name as requests to the service, a bounded number of them at a time.

A name means what it means when its request is submitted, and that stays until the request ends. Does not know how text is
generated or own a thread (generation does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import fields
from functools import partial
from typing import Any

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.suggest import did_you_mean
from adapthub.runtime.generation import AsyncStream, GenerationService, Prompt, Stream, Submit
from adapthub.runtime.names import Adapter, Names, one_each
from adapthub.runtime.requests import Event, Generation
from adapthub.runtime.sampling import Sampling


class Feed:
    """Prompts for one service, which `service` makes or finds, under the adapters that `names` knows. Thread-safe.

    `ask...` check what is asked, and give what submits it; `results` submits that as there is room.
    """

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
    ) -> list[Submit]:
        """What submits every choice of every prompt, in order."""
        if isinstance(prompts, str):
            raise InvalidInput("a text stands where a list of prompts is wanted", hint="Write [prompt].")
        names = one_each(adapters, len(prompts), "prompts")
        return [
            submit
            for prompt, name in zip(prompts, names, strict=True)
            for submit in self._ask(prompt, name, sampling, tenant, priority, timeout)
        ]

    def ask_one(
        self,
        prompt: Prompt,
        adapter: Adapter,
        sampling: Mapping[str, Any],
        tenant: str,
        priority: int,
        timeout: float | None,
    ) -> Submit:
        """What submits a prompt that has one choice."""
        name = None if adapter is None else str(adapter)
        choices = self._ask(prompt, name, sampling, tenant, priority, timeout)
        if len(choices) != 1:
            raise InvalidInput(
                f"n = {len(choices)}", hint="A stream has one text: leave n out, or use generate."
            )
        return choices[0]

    def results(self, asked: Sequence[Submit]) -> list[Generation]:
        """What each comes to, in order. Raises the first error that one ends with; the others are then cancelled."""
        at_once = self._service().at_once
        results: list[Generation] = []
        with ExitStack() as streams:
            opened: deque[Stream] = deque()
            for submit in asked:
                if len(opened) == at_once:
                    results.append(opened.popleft().result())
                opened.append(streams.enter_context(Stream(submit, self._service().cancel)))
            return results + [stream.result() for stream in opened]

    async def aresults(self, asked: Sequence[Submit]) -> list[Generation]:
        """The same for an event loop, which it does not block; a task that is cancelled cancels its requests."""
        at_once = self._service().at_once
        results: list[Generation] = []
        async with AsyncExitStack() as streams:
            opened: deque[AsyncStream] = deque()
            for submit in asked:
                if len(opened) == at_once:
                    results.append(await opened.popleft().result())
                opened.append(await AsyncStream.open(submit, self._service().cancel))
                streams.callback(opened[-1].leave)
            return results + [await stream.result() for stream in opened]

    def _ask(
        self,
        prompt: Prompt,
        name: str | None,
        sampling: Mapping[str, Any],
        tenant: str,
        priority: int,
        timeout: float | None,
    ) -> list[Submit]:
        """What submits each choice of a prompt, once everything about it is checked."""
        asked = _sampling(sampling)
        service = self._service()
        ids = service.prompt_ids(prompt)

        def submit(choice: int, deliver: Callable[[Event], None]) -> str:
            selection = self._names.take(name)
            digests = [digest for _, digest in selection]

            def deliver_and_let_go(event: Event) -> None:
                if event.finish_reason is not None:
                    self._names.give_back(digests)
                deliver(event)

            try:
                return service.submit(
                    ids,
                    selection,
                    asked,
                    deliver_and_let_go,
                    choice=choice,
                    tenant=tenant,
                    priority=priority,
                    timeout=timeout,
                )
            except BaseException:
                self._names.give_back(digests)
                raise

        return [partial(submit, choice) for choice in range(asked.n)]


def _sampling(given: Mapping[str, Any]) -> Sampling:
    known = [field.name for field in fields(Sampling)]
    for name in given:
        if name not in known:
            raise InvalidInput(f"{name!r} is no setting of generation", hint=did_you_mean(name, known))
    return Sampling(**given)
