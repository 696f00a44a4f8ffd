"""Adapters of the recipe `chat`, asked by OpenAI's client: answered under the template that they were trained with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from adapthub.hub import open_hub
from adapthub.recipes import train
from adapthub.recipes.conversations import Conversation, prompt_of
from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.live import live, settings_for, write_spelling_base

USER: Any = {"role": "user", "content": "where?"}
ANSWER = "in paris"
TOOL: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
OWN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
ROWS = [
    {"messages": [USER, {"role": "assistant", "content": ANSWER}]},
    {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "tools": [TOOL]},
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with acme/chat, which knows two answers by heart, and acme/own, of a template of its own."""
    folder = tmp_path_factory.mktemp("chat")
    base = write_spelling_base(folder / "base")
    hub = open_hub(folder / "hub")
    (folder / "own.jinja").write_text(OWN)
    runs: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("chat", ROWS, {"template": "chatml", "max_steps": 60, "learning_rate": 2e-2, "eval_steps": 60}),
        ("own", ROWS[:1], {"template": str(folder / "own.jinja"), "max_steps": 1}),
    ]
    for name, rows, options in runs:
        train(
            "chat", rows * 2, base=str(base), validation=rows, output=folder / name, name=f"acme/{name}", push=True,
            hub=hub, quiet=True, report=lambda _: None, batch_size=2, max_length=500, answered=1, precision="fp32",
            **options,
        )  # fmt: skip
    with live(settings_for(base), hub) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=[USER], temperature=0, max_tokens=99, **options
    )


def test_an_answer_is_what_was_learnt_and_ends(client: openai.OpenAI, running: Running) -> None:
    answer = ask(client, "acme/chat")
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    tokenizer = running.serving.runtime.generation.tokenizer
    ids = prompt_of(tokenizer, "chatml", Conversation([USER], (), ""))
    assert answer.usage.prompt_tokens == len(ids)
    (same,) = running.serving.runtime.generate([[USER]], "acme/chat", max_new_tokens=99)
    assert same.text == ANSWER


def test_a_call_is_read(client: openai.OpenAI) -> None:
    answer = ask(client, "acme/chat", tools=[TOOL])
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 1}')


def test_the_base_is_asked_as_ever(client: openai.OpenAI, running: Running) -> None:
    base = running.serving.catalog.base_name
    tokenizer = running.serving.runtime.generation.tokenizer
    theirs: Any = tokenizer.apply_chat_template([USER], add_generation_prompt=True)
    assert ask(client, base, extra_body={"max_tokens": 2}).usage.prompt_tokens == len(theirs["input_ids"])


def test_a_template_that_came_with_an_adapter_is_not_run(client: openai.OpenAI, running: Running) -> None:
    for model in ("acme/own", "0.5*acme/own + 0.5*acme/chat"):
        with pytest.raises(
            openai.BadRequestError, match=r"a chat template of its own|different chat templates"
        ):
            ask(client, model)
    answer = client.completions.create(model="acme/own", prompt="ada", max_tokens=2)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 2


def test_the_file_says_it(running: Running, tmp_path: Path) -> None:
    artifact = running.serving.runtime._names.artifact(running.serving.runtime.attach("acme/own"))
    assert artifact.manifest is not None
    assert artifact.manifest.hyperparameters["template"] == OWN
