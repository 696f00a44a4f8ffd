"""OpenAI's chat completions: a conversation, continued by the chat template of adapter or base; tools where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from transformers import PreTrainedTokenizerBase

from adapthub.runtime.generation import GenerationService
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampled, Sampling
from adapthub.runtime.server.answering import begin
from adapthub.runtime.server.dependencies import TheCaller, TheRequestId, TheServing
from adapthub.runtime.server.disconnects import while_connected
from adapthub.runtime.server.errors import RefusedRequest
from adapthub.runtime.server.openai_answers import (
    Delta,
    Reader,
    described,
    finite,
    head_of,
    read_whole,
    stream_of,
    token_text,
    usage_of,
)
from adapthub.runtime.server.openai_prompts import chat_ids, new_tokens
from adapthub.runtime.server.openai_requests import ChatRequest
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.tool_calls import NamedTool, Tool, ToolCall, ToolText, opening_of, schema_of_call
from adapthub.runtime.server.versions import versioned
from adapthub.runtime.tenants.caller import Caller

router = APIRouter(prefix="/v1", tags=["chat"])

CHAT_ANSWERS = described(
    "A chat.completion; with `stream`, events that are chat.completion.chunk objects, then [DONE]."
)


@router.post("/chat/completions", response_class=Response, responses=CHAT_ANSWERS)
async def chat_completions(
    body: ChatRequest, request: Request, serving: TheServing, caller: TheCaller, id: TheRequestId
) -> Response:
    """Answer a conversation. Without max_completion_tokens, in as many tokens as the context has left, at most 4096."""
    return await while_connected(request, _answer(body, serving, caller, id))


async def _answer(body: ChatRequest, serving: Serving, caller: Caller, id: str) -> Response:
    body.check()
    tools, forced = _callable(body)
    constraint = {"json_schema": schema_of_call(forced)} if forced else body.constraint()
    user = body.safety_identifier or body.user or None
    async with serving.catalog.admitted(body.model, caller, user) as target:
        style = serving.runtime.chat_style(target.adapter)
        ids = await chat_ids(serving, body.messages, tools, style)
        most = new_tokens(serving, target, len(ids), body.asked_tokens, "messages")
        service = serving.runtime.generation
        samplings = [
            style.ending(sampling, service.tokenizer)
            for sampling in body.samplings(most, body.alternatives, constraint)
        ]
        opening = opening_of(service.chat_template(True, style) or "")
        readers = _readers(
            service, samplings, tools, opening, forced=bool(forced), single=body.parallel_tool_calls is False
        )
        tokenizer = service.tokenizer if body.logprobs else None
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        head = head_of(serving, id, "chatcmpl", kind, body.model)
        answer = await begin(
            serving, caller, target, "chat", [ids], samplings, id=id, priority=-body.priority
        )
        if body.stream:
            first = [_chunk(choice, {"role": "assistant", "content": ""}) for choice in range(body.choices)]

            def chunks(choice: int, event: Event) -> list[dict[str, Any]]:
                return _chunks(choice, readers[choice].read(event), tokenizer)

            return versioned(await stream_of(answer, head, first, chunks, body.include_usage), target)
        texts = await read_whole(answer, readers)
        choices = [_choice(choice, deltas, tokenizer) for choice, deltas in enumerate(texts)]
        whole = {**head, "choices": choices, "usage": usage_of(answer)}
        return versioned(JSONResponse(whole), target)


def _callable(body: ChatRequest) -> tuple[Sequence[Tool], Sequence[Tool]]:
    """The tools that the model is told of, and those of which it must call one."""
    tools = body.tools or []
    choice = body.tool_choice
    if choice is None or choice == "auto":
        return tools, ()
    if choice == "none":
        return (), ()
    named = [tool for tool in tools if choice == "required" or tool.function.name == _name(choice)]
    if not named:
        raise RefusedRequest(
            "tool_choice asks for a tool that is not among tools",
            hint="Describe it in tools.",
            param="tool_choice",
        )
    if body.constraint():
        raise RefusedRequest(
            "tool_choice asks for a call, and response_format or structured_outputs for another text",
            hint="Give one of them.",
            param="tool_choice",
        )
    return tools, named


def _name(choice: NamedTool | str) -> str:
    return choice.function.name if isinstance(choice, NamedTool) else choice


def _readers(
    service: GenerationService,
    samplings: Sequence[Sampling],
    tools: Sequence[Tool],
    opening: str,
    *,
    forced: bool,
    single: bool,
) -> list[Reader]:
    """One a choice; `opening`: what calls begin with."""
    ends = [
        (frozenset() if sampling.ignore_eos else service.eos_ids) | frozenset(sampling.stop_token_ids)
        for sampling in samplings
    ]
    if not tools:
        return [Reader(of_choice) for of_choice in ends]
    names = [tool.function.name for tool in tools]
    mark = service.tokenizer.convert_tokens_to_ids(opening)
    marks = {mark: opening} if mark in service.tokenizer.all_special_ids else {}
    return [Reader(of_choice, ToolText(opening, names, forced, single), marks) for of_choice in ends]


def _chunks(index: int, delta: Delta, tokenizer: PreTrainedTokenizerBase | None) -> list[dict[str, Any]]:
    """What of a stream is new in one choice; `tokenizer` where logprobs are asked for."""
    chunks = []
    logprobs = None if tokenizer is None or not delta.tokens else _logprobs(tokenizer, delta.tokens)
    if delta.text or logprobs:
        chunks.append(_chunk(index, {"content": delta.text}, logprobs))
    if delta.calls:
        calls = [{"index": at} | _call(call) for at, call in enumerate(delta.calls)]
        chunks.append(_chunk(index, {"tool_calls": calls}))
    if delta.finish_reason is not None:
        chunks.append(_chunk(index, {}, None, delta.finish_reason))
    return chunks


def _chunk(
    index: int,
    delta: dict[str, Any],
    logprobs: dict[str, Any] | None = None,
    finish_reason: str | None = None,
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _choice(index: int, deltas: Sequence[Delta], tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    text = "".join(delta.text for delta in deltas)
    calls = [_call(call) for delta in deltas for call in delta.calls]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls else ""),
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    tokens = [token for delta in deltas for token in delta.tokens]
    return {
        "index": index,
        "message": message,
        "logprobs": None if tokenizer is None else _logprobs(tokenizer, tokens),
        "finish_reason": deltas[-1].finish_reason,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": function}


def _logprobs(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[Sampled]) -> dict[str, Any]:
    return {
        "content": [
            _logprob(tokenizer, token.token_id, token.logprob)
            | {"top_logprobs": [_logprob(tokenizer, *other) for other in token.alternatives]}
            for token in tokens
        ],
        "refusal": None,
    }


def _logprob(tokenizer: PreTrainedTokenizerBase, id: int, logprob: float | None) -> dict[str, Any]:
    text, spelled = token_text(tokenizer, id)
    return {"token": text, "bytes": list(spelled), "logprob": finite(logprob)}
