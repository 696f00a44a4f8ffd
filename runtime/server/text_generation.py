"""Hugging Face's Inference API, text generation as text-generation-inference (TGI) answers it, at once or as a stream.

Does not route, find models or stop for a client that leaves (inference does).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal, cast

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import Field

from adapthub.adapters.errors import AdaptHubError, InvalidInput
from adapthub.runtime.generation import GenerationService
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampled, Sampling
from adapthub.runtime.server.answering import Answer, begin
from adapthub.runtime.server.inference_bodies import Strict, parsed
from adapthub.runtime.server.inference_tasks import Asked
from adapthub.runtime.server.sse import EventStream, sse, to_json

TASK = "text-generation"


class _Grammar(Strict):
    """`json` with a schema, `json_schema` with OpenAI's object around one, or `regex`."""

    type: Literal["json", "json_schema", "regex"]
    value: str | dict[str, Any]


class _Parameters(Strict):
    """TGI's. What is not computed here is named, so that it is refused where it would change the text."""

    adapter_id: str | None = None
    best_of: Literal[1] | None = None
    decoder_input_details: Literal[False] | None = None
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float = 0.0
    grammar: _Grammar | None = None
    max_new_tokens: int = 100
    repetition_penalty: float | None = None
    return_full_text: bool = False
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    temperature: float | None = None
    top_k: int | None = None
    top_n_tokens: int = 0
    top_p: float | None = None
    truncate: Annotated[int, Field(ge=1)] | None = None
    typical_p: Literal[1] | None = None
    watermark: Literal[False] | None = None


class _Body(Strict):
    inputs: str
    parameters: _Parameters = _Parameters()
    stream: bool = False


async def text_generation(asked: Asked) -> Response:
    """Continue one prompt."""
    body = parsed(_Body, asked.body)
    sampling = _sampling(body)
    prompt = await asyncio.to_thread(_prompt, asked.serving.runtime.generation, body)
    answer = await begin(asked.serving, asked.caller, asked.target, TASK, [prompt], [sampling], id=asked.id)
    told = _Told(asked.serving.runtime.generation, body, sampling, len(prompt))
    if body.stream:
        return EventStream(_messages(answer, told), answer.settle)
    async with answer:
        async for _, event in answer:
            told.add(event)
    return JSONResponse([told.whole()])


def _sampling(body: _Body) -> Sampling:
    """As TGI decides: a temperature, top_k or top_p means sampling; without any of them and do_sample, greedy."""
    given = body.parameters
    draws = given.do_sample or any(
        value is not None for value in (given.temperature, given.top_k, given.top_p)
    )
    temperature = (1.0 if given.temperature is None else given.temperature) if draws else 0.0
    told = given.details or body.stream or given.top_n_tokens > 0
    return Sampling(
        max_new_tokens=given.max_new_tokens,
        temperature=temperature,
        top_k=given.top_k or 0,
        top_p=1.0 if given.top_p is None else given.top_p,
        repetition_penalty=given.repetition_penalty,
        frequency_penalty=given.frequency_penalty,
        seed=given.seed,
        stop=given.stop,
        logprobs=given.top_n_tokens if told else None,
        **_grammar(given.grammar),
    )


def _grammar(grammar: _Grammar | None) -> dict[str, Any]:
    if grammar is None:
        return {}
    value = grammar.value
    if grammar.type == "regex":
        return {"regex": value}
    if grammar.type == "json_schema":
        if not isinstance(value, dict) or "schema" not in value:
            raise InvalidInput(
                "the grammar's value has no schema", hint='Write {"name": ..., "schema": {...}}.'
            )
        value = value["schema"]
    return {"json_schema": value}


def _prompt(service: GenerationService, body: _Body) -> list[int]:
    """The prompt's tokens; where `truncate` says so, its last ones alone."""
    if not body.inputs:
        raise InvalidInput("inputs is empty", hint="Send a text to continue.")
    ids = service.prompt_ids(body.inputs)
    return ids if body.parameters.truncate is None else ids[-body.parameters.truncate :]


class _Told:
    """One text as it comes, in TGI's words."""

    def __init__(
        self, service: GenerationService, body: _Body, sampling: Sampling, prompt_tokens: int
    ) -> None:
        self._tokenizer = service.tokenizer
        self._special = {*service.tokenizer.all_special_ids} | service.eos_ids
        self._eos_ids = service.eos_ids
        self._body = body
        self._sampling = sampling
        self._prompt_tokens = prompt_tokens
        self._text = body.inputs if body.parameters.return_full_text else ""
        self._tokens: list[dict[str, Any]] = []
        self._top: list[list[dict[str, Any]]] = []
        self._finish_reason = ""

    def add(self, event: Event) -> list[dict[str, Any]]:
        """What an event says, a message for each token; the last of a text has all of it."""
        self._text += event.text
        messages = []
        for place, token in enumerate(event.tokens, start=1):
            last = place == len(event.tokens)
            self._tokens.append(self._token(token, event.text if last else ""))
            message = {
                "index": len(self._tokens),
                "token": self._tokens[-1],
                "generated_text": None,
                "details": None,
            }
            if self._body.parameters.top_n_tokens:
                self._top.append([self._alternative(*one) for one in token.alternatives])
                message["top_tokens"] = self._top[-1]
            messages.append(message)
        if event.finish_reason is not None:
            self._finish_reason = self._reason(event)
            if messages:
                messages[-1] |= {
                    "generated_text": self._text,
                    "details": self._details() | {"input_length": self._prompt_tokens},
                }
        return messages

    def whole(self) -> dict[str, Any]:
        """All of it, as it is answered at once."""
        found: dict[str, Any] = {"generated_text": self._text}
        if self._body.parameters.details:
            found["details"] = self._details() | {"prefill": [], "tokens": self._tokens}
            if self._top:
                found["details"]["top_tokens"] = self._top
        return found

    def _details(self) -> dict[str, Any]:
        return {
            "finish_reason": self._finish_reason,
            "generated_tokens": len(self._tokens),
            "seed": self._sampling.seed,
        }

    def _token(self, token: Sampled, text: str) -> dict[str, Any]:
        return {
            "id": token.token_id,
            "text": text,
            "logprob": token.logprob,
            "special": token.token_id in self._special,
        }

    def _alternative(self, id: int, logprob: float) -> dict[str, Any]:
        return self._token(Sampled(id, logprob), cast(str, self._tokenizer.decode([id])))

    def _reason(self, event: Event) -> str:
        if event.finish_reason != "stop":
            return "length"
        ids = [token["id"] for token in self._tokens]
        if ids[-1] in self._eos_ids or not self._stopped(ids):
            return "eos_token"  # also where a grammar leaves nothing more to say
        return "stop_sequence"

    def _stopped(self, ids: Sequence[int]) -> bool:
        text = self._tokenizer.decode([*ids], skip_special_tokens=True)
        return any(stop in text for stop in self._sampling.stop)


async def _messages(answer: Answer, told: _Told) -> AsyncGenerator[str, None]:
    try:
        async for _, event in answer:
            for message in told.add(event):
                yield sse(to_json(message))
    except AdaptHubError as error:
        yield sse(to_json({"error": str(error), "error_type": "generation"}))
