"""OpenAI's embeddings by OpenAI's own client: the mean of what the backbone gives, from encoders and language models."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

from adapthub.runtime import Runtime
from adapthub.runtime.server.lifecycle import Running


@pytest.fixture
def encoder_client(encoder: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{encoder.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(runtime: Runtime, text: str, adapter: str | None) -> torch.Tensor:
    (hidden,) = runtime.logits([text], adapter)
    return torch.nn.functional.normalize(hidden.mean(0), dim=0)


def close(ours: list[float], theirs: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [None, "acme/sql@prod", "0.5*acme/sql + 0.25*acme/tone"])
@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_a_language_model_embeds(
    client: openai.OpenAI, server: Running, model: str | None, options: Any
) -> None:
    texts = ["ada was born in london", "a fine film", "a fine film"]
    name = model or server.serving.catalog.base_name
    found = client.embeddings.create(model=name, input=texts, user="me", **options)
    assert [one.index for one in found.data] == [0, 1, 2]
    assert found.model == name
    runtime = server.serving.runtime
    for text, one in zip(texts, found.data, strict=True):
        close(one.embedding, expected(runtime, text, model))
    assert np.linalg.norm(found.data[0].embedding) == pytest.approx(1, abs=1e-5)
    assert runtime.base.tokenizer is not None
    tokens = sum(len(runtime.base.tokenizer(text)["input_ids"]) for text in texts)
    assert found.usage.prompt_tokens == found.usage.total_tokens == tokens


@pytest.mark.parametrize(
    ("model", "version"), [(None, None), ("acme/sql@prod", "acme/sql@v1"), ("acme/sql", "acme/sql@v2")]
)
def test_the_answer_says_which_version_gave_it(
    client: openai.OpenAI, server: Running, model: str | None, version: str | None
) -> None:
    name = model or server.serving.catalog.base_name
    raw = client.embeddings.with_raw_response.create(model=name, input="ada")
    assert raw.headers.get("x-adapter-version") == version


def test_embeddings_go_while_others_generate(client: openai.OpenAI, server: Running) -> None:
    """Both use the base at once, and neither changes the other."""

    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as many:
            generating = server.serving.runtime.agenerate(["ada was born"] * 4, "acme/sql", max_new_tokens=32)
            embedding = [many.embeddings.create(model="acme/tone", input="a fine film") for _ in range(8)]
            texts, *found = await asyncio.gather(generating, *embedding)
            return [texts, found]

    texts, found = asyncio.run(run())
    for one in found:
        close(one.data[0].embedding, expected(server.serving.runtime, "a fine film", "acme/tone"))
    (alone,) = server.serving.runtime.generate(["ada was born"], "acme/sql", max_new_tokens=32)
    assert {text.text for text in texts} == {alone.text}


@pytest.mark.parametrize("model", [None, "acme/vectors"])
def test_an_encoder_embeds(encoder_client: openai.OpenAI, encoder: Running, model: str | None) -> None:
    name = model or encoder.serving.catalog.base_name
    found = encoder_client.embeddings.create(model=name, input="ada met bob 🙂 é")
    close(found.data[0].embedding, expected(encoder.serving.runtime, "ada met bob 🙂 é", model))


def test_token_ids_are_embedded_as_they_are(encoder_client: openai.OpenAI, encoder: Running) -> None:
    tokenizer = encoder.serving.runtime.base.tokenizer
    assert tokenizer is not None
    ids = [tokenizer(text)["input_ids"] for text in ("ada met bob", "a film")]
    name = encoder.serving.catalog.base_name
    one = encoder_client.embeddings.create(model=name, input=ids[0])
    close(one.data[0].embedding, expected(encoder.serving.runtime, "ada met bob", None))
    two = encoder_client.embeddings.create(model=name, input=ids)
    close(two.data[1].embedding, expected(encoder.serving.runtime, "a film", None))
    assert two.usage.prompt_tokens == sum(map(len, ids))


def test_dimensions_may_be_what_they_are(encoder_client: openai.OpenAI, encoder: Running) -> None:
    name = encoder.serving.catalog.base_name
    found = encoder_client.embeddings.create(model=name, input="ada", dimensions=64)
    assert len(found.data[0].embedding) == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": ""}, "text 0 is empty"),
        ({"input": " "}, "text 0 is empty"),
        ({"input": ["ada", ""]}, "text 1 is empty"),
        ({"input": []}, "at least 1"),
        ({"input": [[]]}, "input.token_lists.0: List should have at least 1"),
        ({"input": ["ada"] * 100_000}, "at most 2048"),
        ({"input": [1] * 2_000}, "input 0 has 2000 tokens"),
        ({"input": ["ada"] * 1_000 + [3]}, "valid string"),
        ({"input": [1.5]}, "input.texts.0: Input should be a valid string"),
        ({"input": [True]}, "input.tokens.0: Input should be a valid integer"),
        ({"input": [10**9]}, "token id 1000000000"),
        ({"input": [-1]}, "token id -1"),
        ({"input": {"text": "ada"}}, "valid string"),
        ({"input": None}, "valid string"),
        ({"input": "ada " * 100}, "input 0 is longer than the 64 tokens"),
        ({"input": "a" * 3_000_000}, "3,000,000 characters"),
        ({"dimensions": 32}, "dimensions = 32"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": "acme/ner"}, "head for token-classification"),
        ({"model": 3}, "model"),
        ({"temperature": 1}, "temperature"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_refused(
    encoder_client: openai.OpenAI, encoder: Running, options: dict[str, Any], words: str
) -> None:
    body = {"model": encoder.serving.catalog.base_name, "input": "ada"} | options
    with pytest.raises(openai.BadRequestError) as caught:
        encoder_client.post("/embeddings", body=body, cast_to=object)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["acme/none", "../../etc/passwd", "/etc/passwd", "acme/sql@v9", ""])
def test_models_that_are_not_there(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=name, input="ada")
    assert caught.value.status_code in (400, 404)
    assert name.partition("@")[0] in str(caught.value)


def test_base64_is_what_float_is(encoder: Running, tmp_path: Path) -> None:
    """As bytes, for clients that decode them themselves."""
    found = []
    for form in ("base64", "float"):
        body = {"model": encoder.serving.catalog.base_name, "input": "ada", "encoding_format": form}
        request = urllib.request.Request(
            f"{encoder.address}/v1/embeddings",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            assert response.headers["x-request-id"]
            found.append(json.load(response)["data"][0]["embedding"])
    decoded = np.frombuffer(base64.b64decode(found[0]), "<f4")
    np.testing.assert_allclose(decoded, np.array(found[1], "<f4"))
