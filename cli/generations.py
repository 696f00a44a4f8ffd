"""How generated texts look: one as it comes, several one after another, JSON. Generates nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from adapthub.adapters.errors import InvalidInput
from adapthub.cli.output import announce, show_json

if TYPE_CHECKING:
    from adapthub.runtime import Runtime
    from adapthub.runtime.generation import Prompt
    from adapthub.runtime.requests import Generation

# Ends worth a word; the others are what was asked for.
_ENDS = {"length": "The text was cut after {tokens} tokens; --max-new-tokens sets how many."}


def show_generations(
    runtime: Runtime,
    texts: Sequence[str],
    expression: str,
    settings: Mapping[str, Any],
    *,
    chat: bool,
    as_json: bool,
) -> None:
    """Continue each text, or ask of it what the adapter was trained to be asked, and print what comes of it, in order."""
    instruction = None if chat else runtime.instruction(expression)
    chat = chat or _is_asked_by_messages(runtime, expression)
    prompts: list[Prompt] = list(texts)
    if chat:
        prompts = [[{"role": "user", "content": text}] for text in texts]
    elif instruction is not None:
        tokenizer = runtime.base.tokenizer
        assert tokenizer is not None
        prompts = [instruction.prompt_ids(tokenizer, text) for text in texts]
        ends = instruction.style.ends(tokenizer)
        settings = {"max_new_tokens": instruction.max_new_tokens, **settings}
        settings |= {"stop_token_ids": ends} if ends else {}
    streams = instruction is None or not instruction.is_read
    if streams and len(prompts) == 1 and not as_json and settings.get("n", 1) == 1:
        stream = runtime.stream(prompts[0], expression, **settings)
        for event in stream:
            click.echo(event.text, nl=False)
        click.echo()
        _say_end(stream.result())
        return
    results = runtime.generate(prompts, expression, **settings)
    repeated = [text for text in texts for _ in range(len(results) // len(texts))]
    if as_json:
        show_json([_record(*pair) for pair in zip(results, repeated, strict=True)])
        return
    for result in results:
        click.echo(result.text)
        _say_end(result)


def _is_asked_by_messages(runtime: Runtime, expression: str) -> bool:
    """Whether the adapter was trained on conversations, under a template that is run here."""
    try:
        return runtime.chat_style(expression).turn_end is not None
    except InvalidInput:
        return False


def _say_end(result: Generation) -> None:
    if result.finish_reason in _ENDS:
        announce(_ENDS[result.finish_reason].format(tokens=result.usage.completion_tokens))


def _record(result: Generation, text: str) -> dict[str, Any]:
    return {
        "prompt": text,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
    }
