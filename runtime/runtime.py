"""The one object that apps use: a base model, adapters by name on it, and rows that mix them.

    runtime = Runtime("org/base", quantize="nf4")
    runtime.predict(["Ada was born in London.", "A fine film."], adapters=["acme/ner@prod", "acme/mood"])

    runtime.generate(["SELECT"], adapters=["0.7*acme/sql + 0.3*acme/tone"], max_new_tokens=64)

Names are resolved once, when they are attached (names); adapters are loaded and evicted by digest (residency); generation
runs on a thread of its own (generation). Does not schedule or serve over a network.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase, Selection
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidExpression, InvalidInput
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.suggest import did_you_mean
from adapthub.runtime.generation import AsyncStream, GenerationService, Limits, Prompt, Stream, Submit
from adapthub.runtime.names import Names
from adapthub.runtime.predict import Prediction, Reading, Row, Text, check_texts, predict_row, read_text
from adapthub.runtime.registered import Resident
from adapthub.runtime.requests import Event, Generation
from adapthub.runtime.residency import Residency
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.scheduler import Scheduler

if TYPE_CHECKING:
    from adapthub.hub.registry import Registry

# What a row runs on: a name, a PEFT folder, an expression, or None for the base alone.
Adapter = str | Path | None
# Tokens of one pass. Bounds memory; more would not be faster.
_PASS_TOKENS = 8192
_BASE_READING = Reading(None, (), "first", None)


@dataclass(frozen=True)
class _Request:
    place: int
    row: Row
    name: str | None
    selection: Selection
    reading: Reading


class Runtime:
    """Runs many adapters over one base model, mixed in one batch.

    `base` is a loaded Base or what load_base takes; `hub` is where names are pulled from, by default the embedded one.
    Safe to use from several threads: attaching does not wait for a pass except to put its result in.
    """

    def __init__(
        self,
        base: Base | str,
        quantize: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        hub: Registry | None = None,
        *,
        slots: int | None = None,
        slot_bytes: int | None = None,
        host_bytes: int = 4 << 30,
        limits: Limits | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.base = base if isinstance(base, Base) else load_base(base, quantize, device, dtype)
        self._adapted = AdaptedBase(self.base)
        self._residency = Residency(self._adapted, slots=slots, slot_bytes=slot_bytes, host_bytes=host_bytes)
        self._names = Names(self._residency, self._fetch)
        self._hub = hub
        self._limits = limits
        self._scheduler = scheduler
        self._service: GenerationService | None = None
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads and detach everything; requests that still generate end with an error. Idempotent."""
        with self._lock:
            self._closed = True
            service = self._service
        if service is not None:
            service.close()
        self._residency.close()
        self._adapted.close()

    @property
    def attached(self) -> Mapping[str, str]:
        """The digest that each attached name means: a snapshot."""
        return self._names.meanings

    @property
    def resident(self) -> tuple[Resident, ...]:
        """Which adapters are in slots, in host memory or on disk only: a snapshot."""
        return self._residency.snapshot()

    def attach(self, ref: str | Path) -> str:
        """Make an adapter ready: pull and verify a reference, or read a PEFT folder. Returns its digest.

        Attaching a name again resolves it again; what runs meanwhile keeps the version it began with, and that goes with
        it if no other name means it. With fewer slots than adapters an attached one may be evicted; it comes back when
        used. Raises what pulling, reading and binding raise; then nothing has changed.
        """
        return self._names.attach(ref)

    def register(self, ref: str | Path) -> str:
        """Make an adapter known by its name, and load it when something first runs on it. Returns its digest.

        Raises what pulling and reading raise.
        """
        return self._names.register(ref)

    def detach(self, ref: str | Path) -> None:
        """Forget a name or a digest, and the adapter itself once no name means it and nothing runs on it.

        Raises AdapterNotFound.
        """
        self._names.detach(ref)

    def pin(self, ref: str | Path) -> str:
        """Attach a name if it is not, and keep what it means in its slot until `unpin`. Returns the digest.

        Raises what `attach` raises, and OutOfMemory where the pinned adapters need more slots than there are.
        """
        digest = self.attached.get(str(ref)) or self.attach(ref)
        self._residency.pin(digest)
        return digest

    def unpin(self, ref: str | Path) -> None:
        """Let what a name means be evicted again. Raises AdapterNotFound."""
        digest = self.attached.get(str(ref))
        if digest is None:
            raise AdapterNotFound(
                f"{ref} is not attached", hint=f"Attached: {', '.join(self.attached) or 'nothing'}."
            )
        self._residency.unpin(digest)

    def predict(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter] = None
    ) -> list[Prediction]:
        """What each text comes to under its adapter, in order.

        `adapters`: one for all rows or one a row; each a name, a PEFT folder, an expression of several
        ("0.7*acme/a + 0.3*acme/b"), or None for the base alone. What is not attached yet is attached.
        """
        requests, outputs = self._answer(texts, adapters)
        return [
            predict_row(
                request.row, output, request.reading, request.name, tuple(d for _, d in request.selection)
            )
            for request, output in zip(requests, outputs, strict=True)
        ]

    def logits(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter] = None
    ) -> list[torch.Tensor]:
        """Each row's raw head output in float32, unpadded: [T, labels] for token classification, [labels] for text
        classification, the last hidden state [T, hidden] on the base alone."""
        return self._answer(texts, adapters)[1]

    def generate(
        self,
        prompts: Sequence[Prompt],
        adapters: Adapter | Sequence[Adapter] = None,
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> list[Generation]:
        """What the base continues each prompt with, in order; with `n`, that many results a prompt, one after another.

        `prompts`: texts, lists of token ids, or conversations (lists of messages with "role" and "content", by the base's
        chat template); as many as you like, they queue as there is room. `adapters` as for `predict`. `sampling`: the
        fields of Sampling (max_new_tokens, temperature, top_p, stop, seed, json_schema, ...), greedy by default.
        `timeout`: seconds after which a text ends as it is, with finish_reason "deadline".

        Raises InvalidInput for a prompt or setting that cannot work, InvalidSettings for a base that cannot generate, and
        the first error that a prompt ends with; the others are then cancelled.
        """
        asked = self._ask_all(prompts, adapters, tenant, priority, timeout, **sampling)
        at_once = self._generation.at_once
        results: list[Generation] = []
        with ExitStack() as streams:
            opened: deque[Stream] = deque()
            for submit in asked:
                if len(opened) == at_once:
                    results.append(opened.popleft().result())
                opened.append(streams.enter_context(Stream(submit, self._generation.cancel)))
            return results + [stream.result() for stream in opened]

    def stream(
        self,
        prompt: Prompt,
        adapter: Adapter = None,
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> Stream:
        """The same for one prompt and `n` = 1, as it comes: iterate over events, each with its new `text`."""
        submit = _only(self._ask(prompt, adapter, sampling, tenant, priority, timeout))
        return Stream(submit, self._generation.cancel)

    async def agenerate(
        self,
        prompts: Sequence[Prompt],
        adapters: Adapter | Sequence[Adapter] = None,
        **options: Any,
    ) -> list[Generation]:
        """`generate` for an event loop, which it does not block; a task that is cancelled cancels its requests."""
        asked = await asyncio.to_thread(self._ask_all, prompts, adapters, **options)
        at_once = self._generation.at_once
        results: list[Generation] = []
        async with AsyncExitStack() as streams:
            opened: deque[AsyncStream] = deque()
            for submit in asked:
                if len(opened) == at_once:
                    results.append(await opened.popleft().result())
                opened.append(await AsyncStream.open(submit, self._generation.cancel))
                streams.callback(opened[-1].leave)
            return results + [await stream.result() for stream in opened]

    async def astream(
        self,
        prompt: Prompt,
        adapter: Adapter = None,
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        **sampling: Any,
    ) -> AsyncStream:
        """`stream` for an event loop: `async for event in await runtime.astream(...)`."""
        ask = partial(self._ask, prompt, adapter, sampling, tenant, priority, timeout)
        submit = _only(await asyncio.to_thread(ask))
        return await AsyncStream.open(submit, self._generation.cancel)

    def _fetch(self, ref: str | Path) -> Artifact:
        if isinstance(ref, Path) or Path(ref).is_dir():
            return Artifact.read(ref)
        if self._hub is None:
            from adapthub.hub import open_hub

            self._hub = open_hub()
        return self._hub.pull(ref)

    @property
    def _generation(self) -> GenerationService:
        """Made at the first use: most bases of a Runtime never generate."""
        with self._lock:
            if self._closed:
                raise AdaptHubError("the runtime is closed")
            if self._service is None:
                self._service = GenerationService(
                    self._adapted, self._residency, limits=self._limits, scheduler=self._scheduler
                )
            return self._service

    def _ask_all(
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
        names = _one_each(adapters, len(prompts), "prompts")
        return [
            submit
            for prompt, name in zip(prompts, names, strict=True)
            for submit in self._ask(prompt, name, sampling, tenant, priority, timeout)
        ]

    def _ask(
        self,
        prompt: Prompt,
        adapter: Adapter,
        sampling: Mapping[str, Any],
        tenant: str,
        priority: int,
        timeout: float | None,
    ) -> list[Submit]:
        """What submits each choice of a prompt, once everything about it is checked."""
        name = None if adapter is None else str(adapter)
        asked = _sampling(sampling)
        service = self._generation
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

    def _answer(
        self, texts: Sequence[Text], adapters: Adapter | Sequence[Adapter]
    ) -> tuple[list[_Request], list[torch.Tensor]]:
        """Rows and their logits; the adapters that the names meant at the beginning stay until the end."""
        check_texts(texts)
        names = _one_each(adapters, len(texts), "texts")
        with self._taken(dict.fromkeys(names)) as selections:
            digests = sorted({digest for selection in selections.values() for _, digest in selection})
            with self._names.loaded(digests):
                readings = {name: self._reading(name, selection) for name, selection in selections.items()}
                requests = []
                for place, (text, name) in enumerate(zip(texts, names, strict=True)):
                    selection, reading = selections[name], readings[name]
                    row = read_text(text, reading, self.base, self._adapted.longest(selection), place)
                    requests.append(_Request(place, row, name, selection, reading))
                return requests, self._run(requests)

    @contextmanager
    def _taken(self, names: Iterable[str | None]) -> Iterator[dict[str | None, Selection]]:
        """Within: what each name meant when this began."""
        selections: dict[str | None, Selection] = {}
        try:
            for name in names:
                selections[name] = self._names.take(name)
            yield selections
        finally:
            self._names.give_back([digest for selection in selections.values() for _, digest in selection])

    def _reading(self, name: str | None, selection: Selection) -> Reading:
        """How the adapters of an expression, which are loaded, read text."""
        if not selection:
            return _BASE_READING
        self._adapted.task_of(selection)
        attached = self._adapted.attached
        readings = {_reading(self._names.artifact(digest), attached[digest].head) for _, digest in selection}
        if len(readings) > 1:
            raise InvalidExpression(
                f"the adapters of {name!r} differ in labels or in how they read text",
                hint="Sum adapters of one kind.",
            )
        return next(iter(readings))

    def _run(self, requests: Sequence[_Request]) -> list[torch.Tensor]:
        """Logits in order; passes of bounded size, rows of one adapter and of like length together."""
        order = sorted(
            requests, key=lambda request: (request.selection, len(request.row.features["input_ids"]))
        )
        results: dict[int, torch.Tensor] = {}
        with memory_errors(
            "running a batch", "Send fewer or shorter texts, or load the base with quantize='nf4'."
        ):
            for batch in _batches(order):
                outputs = self._adapted.logits([r.row.features for r in batch], [r.selection for r in batch])
                results |= {request.place: output for request, output in zip(batch, outputs, strict=True)}
        return [results[place] for place in range(len(requests))]


def _one_each(adapters: Adapter | Sequence[Adapter], rows: int, what: str) -> list[str | None]:
    """The adapter of each row, where one is given for all or one a row."""
    one = adapters is None or isinstance(adapters, (str, Path))
    given = [adapters] * rows if one else list(cast(Sequence[Adapter], adapters))
    names = [None if name is None else str(name) for name in given]
    if len(names) == 1:
        names *= rows
    if len(names) != rows:
        raise InvalidInput(
            f"{rows} {what} and {len(names)} adapters",
            hint=f"Give one adapter, or one for each of the {what}.",
        )
    return names


def _sampling(given: Mapping[str, Any]) -> Sampling:
    known = [field.name for field in fields(Sampling)]
    for name in given:
        if name not in known:
            raise InvalidInput(f"{name!r} is no setting of generation", hint=did_you_mean(name, known))
    return Sampling(**given)


def _only(choices: Sequence[Submit]) -> Submit:
    if len(choices) != 1:
        raise InvalidInput(f"n = {len(choices)}", hint="A stream has one text: leave n out, or use generate.")
    return choices[0]


def _batches(requests: Sequence[_Request]) -> list[list[_Request]]:
    batches: list[list[_Request]] = []
    tokens = _PASS_TOKENS
    for request in requests:
        length = len(request.row.features["input_ids"])
        if tokens + length > _PASS_TOKENS:
            batches.append([])
            tokens = 0
        batches[-1].append(request)
        tokens += length
    return batches


def _reading(artifact: Artifact, head: object) -> Reading:
    """How an adapter reads text: its manifest says; a plain PEFT folder gets numbered labels and first sub-tokens."""
    count = getattr(head, "labels", 0)
    labels = artifact.labels or tuple(f"LABEL_{index}" for index in range(count))
    recorded = artifact.manifest.hyperparameters if artifact.manifest is not None else {}
    length = recorded.get("max_length")
    return Reading(
        task=artifact.task,
        labels=labels,
        label_token="last" if recorded.get("label_token") == "last" else "first",
        max_length=length if isinstance(length, int) else None,
    )
