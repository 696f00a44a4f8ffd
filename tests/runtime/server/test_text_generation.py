"""Text generation by Hugging Face's own client, at once and streamed, against what Runtime generates."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlparse

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, ValidationError

from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.test_inference import post

PROMPT = "ada was born in"


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def sql(server: Running) -> Iterator[InferenceClient]:
    with InferenceClient(model=f"{server.address}/models/acme/sql") as client:
        yield client


@pytest.fixture
def constrained(spelling_server: Running) -> InferenceClient:
    return InferenceClient(base_url=spelling_server.address)


def expected(server: Running, adapter: str | None = "acme/sql", **sampling: Any) -> Any:
    (generation,) = server.serving.runtime.generate([PROMPT], adapter, **sampling)
    return generation


def until(what: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    last = time.monotonic() + 60
    while not what():
        assert time.monotonic() < last
        time.sleep(0.001)


def test_a_conversation_at_a_models_address(sql: InferenceClient, server: Running) -> None:
    """The client sends it to OpenAI's path behind the address, and "dummy" for a model."""
    messages = [{"role": "user", "content": "ada was born"}]
    (theirs,) = server.serving.runtime.generate([messages], "acme/sql", max_new_tokens=8)
    answer = sql.chat_completion(messages, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content == theirs.text
    assert answer.usage.prompt_tokens == theirs.usage.prompt_tokens
    chunks = sql.chat_completion(messages, max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == theirs.text
    biased: Any = {"7": 1}  # as OpenAI has it
    with pytest.raises(BadRequestError, match="logit_bias is not supported"):
        sql.chat_completion(messages, logit_bias=biased)


def test_a_conversation_by_a_schema(spelling_server: Running) -> None:
    """Which this client packs in a way of its own."""
    base = spelling_server.serving.catalog.base_name
    client = InferenceClient(model=f"{spelling_server.address}/models/{base}")
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    messages = [{"role": "user", "content": "Say it."}]
    answer = client.chat_completion(messages, response_format=wanted, max_tokens=400, temperature=0)
    assert json.loads(answer.choices[0].message.content or "") == {"a": 1}


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"max_new_tokens": 100}),
    ({"max_new_tokens": 8}, {"max_new_tokens": 8}),
    ({"temperature": 0.7, "seed": 5}, {"max_new_tokens": 100, "temperature": 0.7, "seed": 5}),
    ({"do_sample": True, "seed": 6}, {"max_new_tokens": 100, "temperature": 1.0, "seed": 6}),
    ({"top_k": 4, "seed": 7}, {"max_new_tokens": 100, "temperature": 1.0, "top_k": 4, "seed": 7}),
    ({"top_p": 0.5, "seed": 7}, {"max_new_tokens": 100, "temperature": 1.0, "top_p": 0.5, "seed": 7}),
    ({"repetition_penalty": 1.5}, {"max_new_tokens": 100, "repetition_penalty": 1.5}),
    ({"frequency_penalty": 0.5}, {"max_new_tokens": 100, "frequency_penalty": 0.5}),
]


@pytest.mark.parametrize(("asked", "sampling"), CASES, ids=lambda value: str(value)[:40])
def test_the_text_is_what_runtime_generates(
    sql: InferenceClient, server: Running, asked: dict[str, Any], sampling: dict[str, Any]
) -> None:
    theirs = expected(server, **sampling).text
    assert sql.text_generation(PROMPT, **asked) == theirs
    assert "".join(sql.text_generation(PROMPT, stream=True, **asked)) == theirs
    assert sql.text_generation(PROMPT, return_full_text=True, **asked) == PROMPT + theirs


@pytest.mark.parametrize("stream", [False, True])
def test_details(sql: InferenceClient, server: Running, stream: bool) -> None:
    theirs = expected(server, max_new_tokens=6, logprobs=2)
    found = sql.text_generation(PROMPT, details=True, max_new_tokens=6, top_n_tokens=2, seed=3, stream=stream)
    details: Any
    if stream:
        messages: list[Any] = [*found]
        assert [message.index for message in messages] == [*range(1, 7)]
        assert all(message.details is None and message.generated_text is None for message in messages[:-1])
        details, text = messages[-1].details, messages[-1].generated_text
        tokens, top = [m.token for m in messages], [m.top_tokens for m in messages]
        assert details.input_length == theirs.usage.prompt_tokens
    else:
        details, text = found.details, found.generated_text  # type: ignore[union-attr]
        tokens, top = details.tokens, details.top_tokens
        assert details.prefill == []
    assert text == theirs.text == "".join(token.text for token in tokens)
    assert [token.id for token in tokens] == theirs.token_ids
    assert [token.logprob for token in tokens] == pytest.approx([t.logprob for t in theirs.tokens], abs=1e-4)
    assert [[one["id"] for one in two] for two in top] == [
        [id for id, _ in t.alternatives] for t in theirs.tokens
    ]
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", 6, 3)


def test_why_a_text_ended(sql: InferenceClient, server: Running) -> None:
    whole = expected(server, max_new_tokens=40).text
    stop = whole.split()[2]
    found = sql.text_generation(PROMPT, details=True, max_new_tokens=40, stop=[stop])
    assert found.details is not None
    assert found.details.finish_reason == "stop_sequence"
    assert found.generated_text == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": {"enum": [1, 2]}},
        {"type": "json", "value": '{"enum": [1, 2]}'},
        {"type": "json_schema", "value": {"name": "number", "schema": {"enum": [1, 2]}}},
        {"type": "regex", "value": "1|2"},
    ],
    ids=lambda grammar: str(grammar)[:40],
)
def test_grammars(constrained: InferenceClient, grammar: Any) -> None:
    found = constrained.text_generation(PROMPT, grammar=grammar, details=True, stop=["zzz"])
    assert found.generated_text.strip() in ("1", "2")
    assert found.details is not None
    assert found.details.finish_reason == "eos_token"
    assert "".join(constrained.text_generation(PROMPT, grammar=grammar, stream=True)) == found.generated_text


def test_the_prompt_can_be_cut(sql: InferenceClient, server: Running) -> None:
    ids = server.serving.runtime.generation.prompt_ids(PROMPT)[-3:]
    (theirs,) = server.serving.runtime.generate([ids], "acme/sql", max_new_tokens=8)
    assert sql.text_generation(PROMPT, truncate=3, max_new_tokens=8) == theirs.text


def test_the_base_and_an_adapter_by_tgis_names(server: Running) -> None:
    """TGI answers at the server's own address, and names adapters by `adapter_id`."""
    with InferenceClient(base_url=server.address) as client:
        assert (
            client.text_generation(PROMPT, max_new_tokens=8) == expected(server, None, max_new_tokens=8).text
        )
        with_adapter = client.text_generation(PROMPT, max_new_tokens=8, adapter_id="acme/tone@prod")
        assert with_adapter == expected(server, "acme/tone", max_new_tokens=8).text
        with pytest.raises(Exception, match="acme/none"):
            client.text_generation(PROMPT, adapter_id="acme/none")


def test_an_expression_and_a_version(server: Running) -> None:
    for name in ("acme/sql@v2", "0.5*acme/sql + 0.5*acme/tone"):
        with InferenceClient(model=f"{server.address}/models/{quote(name)}") as client:
            theirs = expected(server, name, max_new_tokens=8).text
            assert client.text_generation(PROMPT, max_new_tokens=8) == theirs


def test_many_at_once(server: Running) -> None:
    async def run() -> list[Any]:
        async with AsyncInferenceClient(model=f"{server.address}/models/acme/sql") as client:
            return await asyncio.gather(
                *(client.text_generation(PROMPT, max_new_tokens=12) for _ in range(12))
            )

    assert {*asyncio.run(run())} == {expected(server, max_new_tokens=12).text}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoder_input_details": True, "details": True}, "decoder_input_details"),
        ({"best_of": 2}, "best_of"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"watermark": True}, "watermark"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"max_new_tokens": 10**6}, "tokens"),
        ({"temperature": -1.0}, "temperature = -1"),
        ({"top_p": 2.0}, "top_p = 2"),
        ({"seed": 2**70}, "seed"),
        ({"truncate": 0}, "truncate"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 20}, "stop has 20"),
        ({"top_n_tokens": 100}, "logprobs = 100"),
        ({"grammar": {"type": "lark", "value": "("}}, "grammar.type"),
        ({"grammar": {"type": "json_schema", "value": "{}"}}, "no schema"),
        ({"adapter_id": "acme/tone"}, "adapter_id"),
    ],
    ids=str,
)
def test_what_is_refused(sql: InferenceClient, options: dict[str, Any], words: str) -> None:
    for stream in (False, True):
        with pytest.raises((ValidationError, BadRequestError)) as caught:
            _ = [*sql.text_generation(PROMPT, stream=stream, **options)]
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ""},
        {"inputs": "ada " * 600},
        {"inputs": "ada " * 50_000},
        {"inputs": ["ada"]},
        {"inputs": [1, 2]},
        {"inputs": "ada", "parameters": {"temperature": "hot"}},
        {"inputs": "ada", "stream": "yes"},
        b'{"inputs": "ada", "parameters": {"temperature": NaN}}',
        b'{"inputs": "ada", "parameters": {"temperature": 1e999}}',
    ],
    ids=lambda body: str(body)[:40],
)
def test_bad_bodies(server: Running, body: Any) -> None:
    status, refused = post(server, "/models/acme/sql", body)
    assert status == 400, refused
    assert refused["error_type"] == "validation"


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_leaves_stops_the_work(server: Running, stream: bool) -> None:
    """Within a step of the engine, and nothing of it is left."""
    serving, address = server.serving, urlparse(server.address)
    body = json.dumps({"inputs": PROMPT, "stream": stream, "parameters": {"max_new_tokens": 480}}).encode()
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(
            b"POST /models/zeta/own HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        if stream:
            assert connection.recv(4096)
        until(lambda: serving.runtime.generation.load.running == 1)
        began = serving.runtime.generation.load.steps
    until(lambda: not serving.in_flight)
    assert serving.runtime.generation.load.running == 0
    assert serving.runtime.generation.load.steps - began < 480, "it did not run to its end"
