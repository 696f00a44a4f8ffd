"""Translation and summarization by Hugging Face's own client, of adapters that recipes trained."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError

from adapthub.hub import open_hub
from adapthub.recipes import train
from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.live import live, settings_for, write_spelling_base

TEXT = "ada was born"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with acme/german (translate), acme/short (summarize) and acme/plain, which says nothing of itself."""
    folder = tmp_path_factory.mktemp("text-to-text")
    base = write_spelling_base(folder / "base")
    hub = open_hub(folder / "hub")
    draw = random.Random(0)
    words = [" ".join(draw.choices(["ada", "bob", "paris", "was", "born"], k=3)) for _ in range(20)]
    for task, name, target in (("translate", "german", "target"), ("summarize", "short", "summary")):
        source = {"target": "source", "summary": "document"}[target]
        train(
            task,
            [{source: text, target: text[::-1]} for text in words],
            base=str(base),
            output=folder / name,
            name=f"acme/{name}",
            push=True,
            hub=hub,
            quiet=True,
            report=lambda _: None,
            max_steps=1,
            batch_size=2,
            prompt=f"{task} this: {{source}}",
        )
    with live(settings_for(base), hub) as server:
        yield server


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def client(running: Running, name: str) -> InferenceClient:
    return InferenceClient(model=f"{running.address}/models/{name}")


def expected(running: Running, name: str, prompt: str, tokens: int) -> str:
    """By the runtime, of the prompt as it was trained: a user's message."""
    messages = [{"role": "user", "content": prompt}]
    return running.serving.runtime.generate([messages], name, max_new_tokens=tokens)[0].text


def test_a_translation_is_asked_for_as_it_was_trained(running: Running) -> None:
    instruction = running.serving.runtime.instruction("acme/german")
    assert instruction is not None
    assert (instruction.recipe, instruction.prompt) == ("translate", "translate this: {source}")
    found = client(running, "acme/german").translation(TEXT)
    tokens = instruction.max_new_tokens
    assert found.translation_text == expected(running, "acme/german", f"translate this: {TEXT}", tokens)


def test_a_summary_takes_parameters_of_generation(running: Running) -> None:
    found = client(running, "acme/short").summarization(TEXT, generate_parameters={"max_new_tokens": 4})
    assert found.summary_text == expected(running, "acme/short", f"summarize this: {TEXT}", 4)


def test_what_an_adapter_cannot_do_is_said(running: Running) -> None:
    german, short = client(running, "acme/german"), client(running, "acme/short")
    other = client(running, "acme/german/pipeline/summarization")
    with pytest.raises(BadRequestError, match="It has translation, text-generation"):
        other.summarization(TEXT)
    with pytest.raises(BadRequestError, match="translates as it was trained"):
        german.translation(TEXT, src_lang="en", tgt_lang="de")
    with pytest.raises(BadRequestError, match="text is empty"):
        german.translation(" ")
    with pytest.raises(BadRequestError, match="generate_parameters"):
        short.summarization(TEXT, generate_parameters={"num_beams": 4})
    with pytest.raises(BadRequestError, match="truncation"):
        short.summarization(TEXT, truncation="longest_first")


def test_the_adapters_still_continue_texts_and_expressions_of_unlike_ones_only_that(running: Running) -> None:
    runtime = running.serving.runtime
    plain = client(running, "acme/german").text_generation(TEXT, max_new_tokens=4, stream=False)
    assert plain == runtime.generate([TEXT], "acme/german", max_new_tokens=4)[0].text
    assert runtime.instruction("0.5*acme/german + 0.5*acme/short") is None
    assert runtime.instruction(None) is None
