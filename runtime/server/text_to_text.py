"""Hugging Face's Inference API, translation and summarization: a text in, another out, by adapters that were trained for it.

Does not route, find models or stop for a client that leaves (inference does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import Field

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.answering import begin
from adapthub.runtime.server.inference_bodies import Strict, parsed
from adapthub.runtime.server.inference_tasks import Asked

TASKS: Mapping[str, str] = {"translate": "translation", "summarize": "summarization"}
"""The task of each recipe."""
_FIELDS = {"translation": "translation_text", "summarization": "summary_text"}


class _Generation(Strict):
    do_sample: bool = False
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class _Parameters(Strict):
    """What is not done here is named, so that it is refused: an adapter knows its languages, and nothing is cut."""

    clean_up_tokenization_spaces: Literal[False] | None = None
    generate_parameters: _Generation = _Generation()
    truncation: Literal["do_not_truncate"] | None = None


class _Body(Strict):
    inputs: str
    parameters: _Parameters = _Parameters()


async def translation(asked: Asked) -> Response:
    """One text, translated."""
    return await _answered(asked, "translation")


async def summarization(asked: Asked) -> Response:
    """One text, made short."""
    return await _answered(asked, "summarization")


async def _answered(asked: Asked, task: str) -> Response:
    if any(name in (asked.body.get("parameters") or {}) for name in ("src_lang", "tgt_lang")):
        raise InvalidInput(
            f"{asked.target.model} translates as it was trained; src_lang and tgt_lang cannot be chosen",
            hint="Leave them out.",
        )
    body = parsed(_Body, asked.body)
    ids, sampling = await asyncio.to_thread(_prepared, asked, body)
    text = ""
    async with await begin(
        asked.serving, asked.caller, asked.target, task, [ids], [sampling], id=asked.id
    ) as answer:
        async for _, event in answer:
            text += event.text
    return JSONResponse([{_FIELDS[task]: text}])


def _prepared(asked: Asked, body: _Body) -> tuple[list[int], Sampling]:
    runtime, given = asked.serving.runtime, body.parameters.generate_parameters
    instruction = runtime.instruction(asked.target.adapter)
    assert instruction is not None, "the adapter has the task"
    sampling: dict[str, Any] = given.model_dump(exclude={"do_sample", "max_new_tokens", "temperature"})
    drawn = given.do_sample or given.temperature is not None
    temperature = (1.0 if given.temperature is None else given.temperature) if drawn else 0.0
    tokens = given.max_new_tokens or instruction.max_new_tokens
    tokenizer = runtime.generation.tokenizer
    asked_for = Sampling(max_new_tokens=tokens, temperature=temperature, **sampling)
    return instruction.prompt_ids(tokenizer, body.inputs), instruction.style.ending(asked_for, tokenizer)
