"""Prompts of OpenAI's APIs as token ids, and how many tokens may follow them.

Does not generate. Tokenising happens off the event loop; what cannot fit is refused before.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from adapthub.runtime.chat_templates import ChatStyle
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.errors import RefusedRequest
from adapthub.runtime.server.openai_messages import Message, conversation
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.tool_calls import Tool

# Characters that a token stands for at most, on average: a longer prompt is not even tokenised.
_MOST_CHARACTERS = 64
# Tokens of an answer that may be as long as the context, where the request does not say: all of them are held against the
# tenant's limits while it runs.
_DEFAULT_NEW_TOKENS = 4096


async def chat_ids(
    serving: Serving, messages: Sequence[Message], tools: Sequence[Tool], style: ChatStyle
) -> list[int]:
    """A conversation by the chat template of `style`. Raises RefusedRequest, and InvalidInput by the template."""
    service = serving.runtime.generation
    template = service.chat_template(bool(tools), style)
    if template is None:
        raise RefusedRequest(
            f"{serving.catalog.base_name} has no chat template",
            hint="Use /v1/completions.",
            param="messages",
        )
    if tools and not re.search(r"\btools\b", template):
        raise RefusedRequest(
            f"the chat template of {serving.catalog.base_name} has no tools",
            hint="Leave tools out, or serve a base whose template has them.",
            param="tools",
        )
    plain = conversation(messages, developer="developer" in template)
    _check_length(serving, sum(len(message["content"]) for message in plain), "messages")
    described: list[dict[str, Any]] | None = [tool.model_dump(exclude_none=True) for tool in tools] or None
    return await asyncio.to_thread(service.prompt_ids, plain, described, style)


async def text_ids(serving: Serving, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    """Prompts of a completion, each a text or token ids already. Raises RefusedRequest."""
    service = serving.runtime.generation
    for prompt in prompts:
        if isinstance(prompt, str):
            _check_length(serving, len(prompt), "prompt")
    ids = await asyncio.to_thread(lambda: [service.prompt_ids(prompt) for prompt in prompts])
    if not all(ids):
        raise RefusedRequest(
            "a prompt is empty: there is nothing to continue", hint="Send a text.", param="prompt"
        )
    return ids


def new_tokens(
    serving: Serving,
    target: Target,
    prompt_tokens: int,
    asked: int | None,
    param: str,
    default: int = _DEFAULT_NEW_TOKENS,
) -> int:
    """How many tokens may follow a prompt, the field `param`: as many as were `asked` for, else what fits and at most
    `default`.

    Raises RefusedRequest where they do not fit into the context.
    """
    room = serving.runtime.room(target.adapter, prompt_tokens)
    if room < (asked or 1):
        sent = f"{prompt_tokens} tokens" + (f" and asks for {asked} more" if asked else "")
        _refuse(serving, target.adapter, sent, param)
    return asked or min(default, room)


def _check_length(serving: Serving, characters: int, param: str) -> None:
    longest = serving.runtime.generation.serving.reads or serving.runtime.room()
    if characters > longest * _MOST_CHARACTERS:
        _refuse(serving, None, f"{characters:,} characters", param)


def _refuse(serving: Serving, adapter: str | None, sent: str, param: str) -> NoReturn:
    context = f"the context of this model is {serving.runtime.room(adapter)} tokens"
    if reads := serving.runtime.generation.serving.reads:
        context = (
            f"this model reads at most {reads} tokens and writes at most {serving.runtime.room(adapter)}"
        )
    raise RefusedRequest(
        f"{context}, and the request has {sent}",
        hint="Shorten the prompt, or lower max_tokens.",
        param=param,
        code="context_length_exceeded",
    )
