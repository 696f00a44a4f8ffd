"""Generation as a service: a thread that steps the engine, and what may be asked of it.

`GenerationService` finds out whether a base can generate, sizes the pool of keys and values, and owns the thread. Does not
resolve names or schedule (the engine does).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from jinja2 import TemplateError

from adapthub.adapters.errors import AdaptHubError, InvalidInput, InvalidSettings, OutOfMemory
from adapthub.adapters.memory import free_memory
from adapthub.runtime.attention import Serving, serves
from adapthub.runtime.chat_templates import BASE_STYLE, ChatStyle
from adapthub.runtime.constraints import compile_constraint
from adapthub.runtime.encoder_decoder import (
    EncoderDecoderForward,
    WholePrompts,
    is_encoder_decoder,
    serves_whole,
)
from adapthub.runtime.engine import Engine, Load
from adapthub.runtime.forward import Forward
from adapthub.runtime.kv import KV, Pages, page_bytes
from adapthub.runtime.paging import Paging
from adapthub.runtime.requests import Event, Request
from adapthub.runtime.sampling import Constraint, Sampling
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.text_stream import TextStream
from adapthub.runtime.unapplied import unapplied

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from adapthub.adapters.attach import AdaptedBase
    from adapthub.adapters.base import Base
    from adapthub.adapters.selections import Selection
    from adapthub.runtime.residency import Residency

_LOG = logging.getLogger(__name__)
# A text, the ids of its tokens, or a conversation: messages with "role" and "content".
Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
# Tokens; the last page of a request is half empty on average, and runs of pages are read as one.
PAGE_SIZE = 4
_KV_SHARE = 0.25  # of the free memory, unless kv_tokens says otherwise
_POLL = 0.05  # seconds between steps that found nothing to compute while requests wait


@dataclass(frozen=True)
class Limits:
    """What a service takes at once. `kv_tokens`: tokens whose keys and values fit; None for a quarter of the free memory,
    at most `max_rows` full contexts. `max_rows`: requests that run. `step_tokens`: tokens that one step computes.
    `step_seconds`: how long steps become by prompts, and by tenants with more than their share, while several tenants are
    served. `queue_limit`: requests that may wait. Raises InvalidSettings for one that is not above 0; all but `step_seconds`
    are whole numbers."""

    kv_tokens: int | None = None
    max_rows: int = 64
    step_tokens: int = 512
    step_seconds: float = 0.25
    queue_limit: int = 1024

    def __post_init__(self) -> None:
        if not (isinstance(self.step_seconds, int | float) and self.step_seconds > 0):
            raise InvalidSettings(f"step_seconds is {self.step_seconds!r}", hint="Give a time above 0.")
        for field in ("kv_tokens", "max_rows", "step_tokens", "queue_limit"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, int) and value > 0):
                raise InvalidSettings(f"{field} is {value!r}", hint="Give a whole number above 0.")


class GenerationService:
    """Generates over one adapted base, on a thread of its own, for callers on any thread.

    Raises InvalidSettings for a base that cannot generate, saying why, and OutOfMemory where the pool does not fit.
    """

    def __init__(
        self,
        adapted: AdaptedBase,
        residency: Residency,
        *,
        limits: Limits | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self._base = adapted.base
        self.tokenizer = _tokenizer(self._base)
        self.limits = limits or Limits()
        reads_whole = is_encoder_decoder(self._base.model)
        if reads_whole:
            self.serving = serves_whole(self._base.model)
        else:
            with adapted.alone():  # what it tries sets the model's attention
                self.serving = serves(self._base.model)
        self.eos_ids = _eos_ids(self._base)
        if left := unapplied(self._base.model.generation_config, encoder_decoder=reads_whole):
            _LOG.warning(
                "%s: its generation configuration asks for %s, which is not done: ask in requests for what they know",
                self._base.ref,
                ", ".join(left),
            )
        tokens = kv_tokens(self.serving, free_memory(self._base.device), self.limits)
        pages = Pages(tokens // PAGE_SIZE)
        if scheduler is None:  # an empty one is false
            scheduler = Scheduler(queue_limit=self.limits.queue_limit)
        self._many = max(1, scheduler.queue_limit // 2)
        self.context = min(self.serving.context or tokens, tokens)
        shapes, dtype, device = self.serving.shapes, self.serving.dtype, self._base.device
        whole: tuple[Paging, Forward] | None = None
        if reads_whole:
            reads, both = self.serving.reads, self.serving.context
            assert reads is not None
            assert both is not None
            paging = WholePrompts(adapted, pages, reads=reads, writes=both - reads, page_size=PAGE_SIZE)
            whole = paging, EncoderDecoderForward(adapted)
        self.engine = Engine(
            adapted,
            residency,
            kv=None if whole else KV(shapes, pages.count, PAGE_SIZE, device, dtype),
            whole=whole,
            pages=pages,
            stream=self._text_stream,
            eos_ids=self.eos_ids,
            context=self.context,
            max_rows=self.limits.max_rows,
            step_tokens=self.limits.step_tokens,
            step_seconds=self.limits.step_seconds,
            scheduler=scheduler,
        )
        self._wake = threading.Event()
        self._closing = False
        residency.when_ready(self._wake.set)
        self._thread = threading.Thread(target=self._run, name="adapthub-engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """How busy the engine is."""
        return self.engine.load

    @property
    def has_room(self) -> bool:
        """Whether less than half of what may wait does: who has many prompts leaves the rest of the queue to others."""
        return self.load.waiting < self._many

    def submit(
        self,
        prompt_ids: Sequence[int],
        selection: Selection,
        sampling: Sampling,
        deliver: Callable[[Event], None],
        *,
        choice: int = 0,
        tenant: str = "",
        priority: int = 0,
        deadline: float | None = None,
        constraint: Constraint | None = None,
        wake: bool = True,
    ) -> str:
        """Queue a request and return its id; its events come to `deliver` on the engine's thread.

        `deadline`: when it ends as it is, as `ends_at` says. `constraint`: what `compiled` made of `sampling`, for this
        request alone; without it the grammar is compiled here, on the caller's thread. `wake`: whether an idle engine
        begins with it now, or with the next, or on `wake()`: requests that come together begin together. Raises
        InvalidInput for what cannot be generated, AdaptHubError once generation was closed.
        """
        request = Request(
            id=uuid4().hex,
            prompt_ids=tuple(prompt_ids),
            selection=selection,
            sampling=sampling,
            deliver=deliver,
            constraint=constraint or self.compiled(sampling),
            choice=choice,
            tenant=tenant,
            priority=priority,
            deadline=deadline,
        )
        self.engine.submit(request)
        if wake:
            self._wake.set()
        return request.id

    def compiled(self, sampling: Sampling) -> Constraint | None:
        """The grammar of one request, compiled, which may take a second; None where it has none. Raises InvalidInput."""
        return compile_constraint(sampling, self.tokenizer, self.eos_ids)

    def wake(self) -> None:
        """Let an idle engine begin with what was submitted."""
        self._wake.set()

    def chat_template(self, tools: bool = False, style: ChatStyle = BASE_STYLE) -> str | None:
        """The chat template of `style`, of several the one for tools or that without; None where there is none."""
        return style.text(self.tokenizer, tools)

    def prompt_ids(
        self,
        prompt: Prompt,
        tools: Sequence[Mapping[str, Any]] | None = None,
        style: ChatStyle = BASE_STYLE,
    ) -> list[int]:
        """A prompt as token ids; a conversation by the chat template of `style`, up to where the assistant speaks.

        `tools`: functions that the assistant of a conversation may call, each described by a JSON schema.

        Raises InvalidInput for anything else, for ids outside the vocabulary, and for a conversation that the template
        refuses.
        """
        if isinstance(prompt, str):
            try:
                return cast("list[int]", self.tokenizer(prompt)["input_ids"])
            except (TypeError, UnicodeError) as error:  # half a character, as JSON can spell it
                raise InvalidInput(f"the prompt cannot be tokenised: {error}") from error
        if isinstance(prompt, Sequence) and all(type(token) is int for token in prompt):
            ids = cast("list[int]", [*prompt])
            self.engine.check_ids(ids)  # here, as others decode them before they are submitted
            return ids
        if isinstance(prompt, Sequence) and all(isinstance(message, Mapping) for message in prompt):
            return self._conversation_ids(cast("Sequence[Mapping[str, Any]]", prompt), tools, style)
        raise InvalidInput(
            f"a prompt is a text, a list of token ids or a list of messages, not {prompt!r:.80}"
        )

    def _conversation_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        style: ChatStyle,
    ) -> list[int]:
        template = self.chat_template(bool(tools), style)
        if template is None:
            raise InvalidInput(
                f"{self._base.ref} has no chat template", hint="Send a text instead of messages."
            )
        try:
            encoded: Any = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=None if tools is None else [dict(tool) for tool in tools],
                chat_template=template,
                add_generation_prompt=True,
                return_dict=True,
            )
        except (TemplateError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"the chat template refuses these messages: {error}") from error
        return cast("list[int]", encoded["input_ids"])

    def cancel(self, id: str) -> None:
        """End a request within one step. Raises InvalidInput for one that has ended, or never was."""
        self.engine.cancel(id)
        self._wake.set()

    def close(self) -> None:
        """End the thread; requests that still run end with an error. Idempotent."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _text_stream(self, request: Request) -> TextStream:
        sampling = request.sampling
        return TextStream(self.tokenizer, sampling.stop, sampling.min_new_tokens)

    def _run(self) -> None:
        while not self._closing:
            try:
                worked = self.engine.step()
            except Exception as error:  # a defect; nobody shall wait for an answer that never comes
                _LOG.exception("a step of the engine failed")
                self.engine.fail_all(AdaptHubError(f"the engine failed: {type(error).__name__}: {error}"))
                continue
            if not worked:
                self._wake.wait(_POLL if self.engine.busy else None)
                self._wake.clear()
        self.engine.close(AdaptHubError("generation was closed"))


def ends_at(timeout: float | None) -> float | None:
    """The deadline, on the clock of time.monotonic, of what may take `timeout` seconds. Raises InvalidInput for none."""
    if timeout is None:
        return None
    if not (isinstance(timeout, int | float) and timeout >= 0):
        raise InvalidInput(f"timeout is {timeout!r}", hint="Give a number of seconds.")
    return time.monotonic() + timeout


def kv_tokens(serving: Serving, free: int, limits: Limits) -> int:
    """Tokens whose keys and values are kept in `free` bytes. Raises OutOfMemory where those asked for do not fit."""
    per_token = page_bytes(serving.shapes, 1, serving.dtype)
    if limits.kv_tokens is not None:
        tokens = -(-limits.kv_tokens // PAGE_SIZE) * PAGE_SIZE
        if tokens * per_token > free:
            raise OutOfMemory(
                f"keys and values of {tokens} tokens need {tokens * per_token / 1e9:.1f} GB; {free / 1e9:.1f} GB are free",
                hint=f"Lower kv_tokens to at most {free // per_token}.",
            )
        return tokens
    tokens = int(free * _KV_SHARE / per_token)
    if serving.context is not None:
        tokens = min(tokens, limits.max_rows * serving.context)
    return max(tokens // PAGE_SIZE, 1) * PAGE_SIZE


def _tokenizer(base: Base) -> PreTrainedTokenizerBase:
    if base.tokenizer is None:
        raise InvalidSettings(f"{base.ref} has no tokenizer, so it cannot generate text")
    return base.tokenizer


def _eos_ids(base: Base) -> frozenset[int]:
    """The tokens that end a text: the generation configuration's, else the tokenizer's."""
    configured = getattr(base.model.generation_config, "eos_token_id", None)
    if configured is None:
        configured = cast("PreTrainedTokenizerBase", base.tokenizer).eos_token_id
    if configured is None:
        return frozenset()
    return frozenset([configured] if isinstance(configured, int) else configured)
