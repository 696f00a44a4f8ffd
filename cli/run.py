"""`adapt run`: runs texts or recordings through an adapter, or a weighted sum of adapters, and shows what comes of it.

Pulling, loading, predicting, generating and transcribing are the library's; showing is `predictions`', `generations`' and
`transcriptions`'.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.tasks import SPEECH
from adapthub.cli.options import base_option, complete_names, device_option, hub_option, quantize_option
from adapthub.cli.output import json_option
from adapthub.cli.set_option import set_option, setting


@click.command()
@click.argument("expression", shell_complete=complete_names)
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@base_option("the one the adapter was trained on")
@quantize_option("as the adapter was trained")
@device_option
@click.option("--max-new-tokens", type=int, help="Generation: at most so many tokens. Default: 128.")
@click.option("--temperature", type=float, help="Generation: 0 takes the likeliest token. Default: 0.")
@click.option("--context", help="Question answering: the text that each TEXT is a question about.")
@click.option("--chat", is_flag=True, help="Generation: each text is a message in the model's chat template.")
@set_option("Generation: another setting, such as top_p=0.9, seed=1, stop=END or regex=[0-9]+.")
@hub_option
@json_option
def run(
    expression: str,
    texts: tuple[str, ...],
    base: str | None,
    quantize: str | None,
    device: str,
    max_new_tokens: int | None,
    temperature: float | None,
    context: str | None,
    chat: bool,
    more: tuple[str, ...],
    hub: str | None,
    as_json: bool,
) -> None:
    """Run texts, sound or pictures through adapters.

    EXPRESSION is a name, a folder, or a weighted sum of names. Its adapters are pulled and their base model
    loaded. An adapter for generation continues each text, or does with it what it was trained for (translate,
    summarize); a single answer is shown as it comes. One for question answering answers each text from --context. One
    for speech writes down the recording in each file, in the language it was trained in unless --set language=es
    says otherwise; one for pictures says what is on each file's. A single - reads stdin, a text a line; blank lines are
    left out.

    \b
    Example:
      $ adapt run acme/ner "Ada was born in London."
      $ adapt run acme/ner@v1 "Ada was born in London." "She works at Acme." --json
      $ adapt run acme/qa "Who was born?" --context "Ada was born in London."
      $ adapt run "0.7*acme/ner@v1 + 0.3*acme/ner@v2" "Ada was born in London."
    """
    from adapthub.adapters.expression import parse_expression
    from adapthub.cli.chosen_hub import open_chosen
    from adapthub.cli.find import chosen_base, chosen_quantization, find_adapter
    from adapthub.cli.generations import show_generations
    from adapthub.cli.predictions import show_predictions
    from adapthub.cli.quiet import quiet_libraries
    from adapthub.cli.transcriptions import show_transcriptions

    quiet_libraries()
    rows = stdin_lines() if texts == ("-",) else list(texts)
    registry = open_chosen(hub)
    first = find_adapter(parse_expression(expression).terms[0].name, registry)

    from adapthub.runtime import Pair, Runtime

    named = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    given = dict(map(setting, more)) | {name: value for name, value in named.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    language = given.pop("language", None) if first.task == SPEECH else None
    if first.task != "text-generation" and (given or chat):
        option = "--chat" if chat else f"--{next(iter(given)).replace('_', '-')}"
        raise InvalidInput(
            f"{option} is for adapters that generate; {expression} is for {first.task or 'no known task'}"
        )
    if (context is not None) != (first.task == "question-answering"):
        raise InvalidInput(
            f"{expression} is for {first.task or 'no known task'}",
            hint="Give --context with adapters for question answering, and only with them.",
        )
    with Runtime(
        chosen_base(base, first),
        quantize=chosen_quantization(quantize, first),
        device=device,
        hub=registry,
    ) as runtime:
        if first.task == "text-generation":
            show_generations(runtime, rows, expression, given, chat=chat, as_json=as_json)
        elif first.task == SPEECH:
            found = runtime.transcribe(rows, adapters=expression, language=language)
            show_transcriptions(found, rows, as_json=as_json)
        else:
            asked: list[Any] = rows if context is None else [Pair(row, context) for row in rows]
            if first.task == "image-classification":
                asked = [Path(row) for row in rows]
            show_predictions(runtime.predict(asked, adapters=expression), rows, as_json=as_json)


def stdin_lines() -> list[str]:
    """The texts on stdin, one a line, without blank lines."""
    try:
        lines = [line.rstrip("\r\n") for line in sys.stdin if not line.isspace()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"stdin is not {error.encoding} text", hint="Send UTF-8.") from error
    if not lines:
        raise InvalidInput("there is no text on stdin", hint="Send one text a line.")
    return lines
