"""What answers of OpenAI's two APIs have in common: the head, usage, why a text ended, what of it is given out, tokens as
text, and streams of chunks.

Does not know which API it is for.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from adapthub.adapters.errors import AdaptHubError
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampled
from adapthub.runtime.server.answering import Answer
from adapthub.runtime.server.errors import body_of
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.sse import DONE, EventStream, sse, to_json
from adapthub.runtime.server.tool_calls import ToolCall, ToolText

_LOWEST = -9999.0  # JSON has no infinity
_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def described(what: str) -> dict[int | str, dict[str, Any]]:
    """`what` an endpoint answers, as the document of the API has it: an object, or a stream."""
    content = {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return {200: {"description": what, "content": content}}


def head_of(
    serving: Serving, id: str, prefix: Literal["chatcmpl", "cmpl"], kind: str, model: str
) -> dict[str, Any]:
    """The first fields of an answer, and of every chunk of it."""
    fingerprint = serving.runtime.base.fingerprint.digest.removeprefix("sha256:")
    return {
        "id": f"{prefix}-{id}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"fp_{fingerprint[:12]}",
    }


def usage_of(answer: Answer) -> dict[str, Any]:
    """What an answer that has ended used."""
    usage = answer.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


@dataclass(frozen=True)
class Delta:
    """What an event adds to a choice. `tokens`: without the one that ended the text."""

    text: str
    tokens: tuple[Sampled, ...]
    finish_reason: str | None = None
    calls: Sequence[ToolCall] = ()


class Reader:
    """One choice's events as what they add to it.

    `ends`: tokens that end a text. With `tools`, calls are read from it; `marks` has the tokens that are no text to the
    tokenizer and part of a call.
    """

    def __init__(
        self, ends: frozenset[int], tools: ToolText | None = None, marks: Mapping[int, str] | None = None
    ) -> None:
        self._ends = ends
        self._tools = tools
        self._marks = marks or {}

    def read(self, event: Event) -> Delta:
        """The next event."""
        reason = event.finish_reason
        tokens = event.tokens
        if reason == "stop" and tokens and tokens[-1].token_id in self._ends:
            tokens = tokens[:-1]
        finish_reason = reason
        if reason not in (
            None,
            "stop",
        ):  # one that an administrator ended is cut short like one out of tokens
            finish_reason = "length"
        if self._tools is None:
            return Delta(event.text, tokens, finish_reason)
        marks = "".join(self._marks.get(token.token_id, "") for token in tokens)
        text = self._tools.push(event.text + marks)
        if finish_reason is None:
            return Delta(text, tokens)
        rest, calls = self._tools.finish()
        return Delta(text + rest, tokens, "tool_calls" if calls else finish_reason, calls)


async def read_whole(answer: Answer, readers: Sequence[Reader]) -> list[list[Delta]]:
    """Everything that each choice is made of. Raises the error that one ends with."""
    deltas: list[list[Delta]] = [[] for _ in readers]
    async with answer:
        async for choice, event in answer:
            deltas[choice].append(readers[choice].read(event))
    return deltas


async def stream_of(
    answer: Answer,
    head: Mapping[str, Any],
    opening: Iterable[dict[str, Any]],
    chunks: Callable[[int, Event], list[dict[str, Any]]],
    include_usage: bool,
) -> EventStream:
    """A stream of chunks: those of `opening`, then what `chunks` makes of each event; each is the object of one choice.

    Waits for the first events: an error before them is an answer of its own, behind them the last event of the stream.
    """
    batches = answer.batches()
    try:
        first = await anext(batches)
    except BaseException:
        await answer.settle()
        raise
    before = to_json(head)[:-1] + ',"choices":['
    after = '],"usage":null}' if include_usage else "]}"

    def written(choices: Iterable[dict[str, Any]]) -> str:
        return "".join(sse(f"{before}{to_json(choice)}{after}") for choice in choices)

    def of(batch: Sequence[tuple[int, Event]]) -> str:
        return written(chunk for choice, event in batch for chunk in chunks(choice, event))

    async def events() -> AsyncGenerator[str, None]:
        yield written(opening) + of(first)
        try:
            async for batch in batches:
                if text := of(batch):
                    yield text
        except AdaptHubError as error:
            yield sse(to_json(body_of(error)))
            return
        if include_usage:
            yield sse(to_json({**head, "choices": [], "usage": usage_of(answer)}))
        yield DONE

    return EventStream(events(), answer.settle)


@lru_cache(maxsize=1 << 16)
def token_text(tokenizer: PreTrainedTokenizerBase, id: int) -> tuple[str, tuple[int, ...]]:
    """A token by itself, as text and as bytes: those of half a character are no text."""
    piece = str(tokenizer.convert_ids_to_tokens(id))
    text = str(tokenizer.decode([id]))
    if fallback := _FALLBACK.fullmatch(piece):
        return text, (int(fallback[1], 16),)
    if "\N{REPLACEMENT CHARACTER}" in text and all(character in _BYTES for character in piece):
        return text, tuple(_BYTES[character] for character in piece)
    if piece.startswith("▁") and not text.startswith(" "):
        text = f" {text}"
    return text, tuple(text.encode())


def finite(logprob: float | None) -> float:
    """A logprob as JSON has it."""
    return _LOWEST if logprob is None else max(logprob, _LOWEST)
