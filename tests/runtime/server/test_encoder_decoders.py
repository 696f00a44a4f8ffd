"""A T5 over HTTP, as clients know it: Hugging Face's and OpenAI's get what the runtime itself writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient
from safetensors.torch import load_file

from adapthub.adapters.artifact import write_artifact
from adapthub.adapters.base import resolve_base
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.hub import open_hub
from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.live import live, settings_for
from tests.runtime.t5 import save, write_t5

TEXT = "ada was born in london"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with acme/translate and acme/summarize, which say by their manifests how they are to be asked."""
    folder = tmp_path_factory.mktemp("t5-served")
    base = write_t5(folder / "base")
    hub = open_hub(folder / "hub")
    for seed, recipe in enumerate(("translate", "summarize")):
        made = save(base, folder / f"peft-{recipe}", seed, ["q", "k", "v", "o", "wi", "wo"])
        manifest = Manifest(
            task="text-generation",
            base=BaseRecord(id=str(base), fingerprint=resolve_base(str(base)).fingerprint),
            recipe=recipe,
            method="lora",
            hyperparameters={"prompt": "the story : {source}", "max_new_tokens": 9, "decoder_start": 0},
        )
        artifact = write_artifact(
            folder / recipe,
            config=json.loads((made / "adapter_config.json").read_bytes()),
            tensors=load_file(made / "adapter_model.safetensors"),
            manifest=manifest,
            card="",
        )
        hub.push(artifact, f"acme/{recipe}")
    with live(settings_for(base), hub) as server:
        yield server


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def written(running: Running, name: str, prompt: Any, **options: Any) -> str:
    return running.serving.runtime.generate([prompt], name, **options)[0].text


def asked(running: Running, name: str) -> list[int]:
    """TEXT as the adapter was trained to be asked."""
    runtime = running.serving.runtime
    instruction = runtime.instruction(name)
    assert instruction is not None
    return instruction.prompt_ids(runtime.generation.tokenizer, TEXT)


def test_translations_and_summaries(running: Running) -> None:
    for name in ("acme/translate", "acme/summarize"):
        client = InferenceClient(model=f"{running.address}/models/{name}")
        wanted = written(running, name, asked(running, name), max_new_tokens=9)
        found = (
            client.translation(TEXT).translation_text
            if name == "acme/translate"
            else client.summarization(TEXT).summary_text
        )
        assert found == wanted != ""


def test_texts_are_generated_whole_and_as_they_come(running: Running) -> None:
    client = InferenceClient(model=f"{running.address}/models/acme/translate")
    wanted = written(running, "acme/translate", TEXT, max_new_tokens=7)
    assert client.text_generation(TEXT, max_new_tokens=7, stream=False) == wanted
    assert "".join(client.text_generation(TEXT, max_new_tokens=7, stream=True)).startswith(wanted)


def test_completions_of_openai(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)
    texts = [TEXT, "bob"]
    given: Any = {"model": "acme/summarize", "prompt": texts, "max_tokens": 6, "temperature": 0}
    wanted = [written(running, "acme/summarize", text, max_new_tokens=6) for text in texts]
    answer = client.completions.create(**given)
    assert [choice.text for choice in answer.choices] == wanted
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    streamed = ["", ""]
    for chunk in client.completions.create(**given, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == wanted
    drawn = [
        client.completions.create(**{**given, "temperature": 3.0, "seed": 5}).choices[0].text
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert running.serving.runtime.room(prompt=4096) == 4096
    with pytest.raises(openai.BadRequestError, match="reads at most 4096 tokens and writes at most 4096"):
        client.completions.create(**{**given, "prompt": [[5] * 4097]})
    with pytest.raises(openai.BadRequestError, match="has no chat template"):
        client.chat.completions.create(model="acme/summarize", messages=[{"role": "user", "content": TEXT}])


def test_many_clients_and_adapters_at_once(running: Running) -> None:
    names = ("acme/translate", "acme/summarize")
    texts = [f"{word} {TEXT}" for word in ("bob", "alice", "she", "the film")]
    pairs = [(name, text) for text in texts for name in names]

    async def all_at_once() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)
        answers = await asyncio.gather(
            *(
                client.completions.create(model=name, prompt=text, max_tokens=6, temperature=0)
                for name, text in pairs
            )
        )
        await client.close()
        return [answer.choices[0].text for answer in answers]

    assert asyncio.run(all_at_once()) == [
        written(running, name, text, max_new_tokens=6) for name, text in pairs
    ]
