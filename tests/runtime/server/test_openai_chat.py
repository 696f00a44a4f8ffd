"""Chat completions as OpenAI's client sees them, against what the runtime itself generates from the same tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from fastapi.concurrency import run_in_threadpool

from adapthub.runtime.requests import Generation
from adapthub.runtime.server.dependencies import caller_of
from adapthub.runtime.server.lifecycle import Running

MESSAGES: Any = [{"role": "system", "content": "ada was"}, {"role": "user", "content": "born in london"}]


def base_of(server: Running) -> str:
    return server.serving.catalog.base_name


def expected(
    server: Running, adapter: str | None = None, messages: Sequence[Any] = MESSAGES, **sampling: Any
) -> list[Generation]:
    return server.serving.runtime.generate([messages], adapter, **sampling)


def streamed_text(chunks: Sequence[Any], index: int = 0) -> str:
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
    )


@pytest.mark.parametrize("model", ["base", "acme/sql@v1", "0.5*acme/sql@v2 + 0.25*acme/tone"])
def test_a_greedy_answer_is_the_runtimes(client: openai.OpenAI, server: Running, model: str) -> None:
    adapter = None if model == "base" else model
    (wanted,) = expected(server, adapter, max_new_tokens=12, logprobs=0)
    answer = client.chat.completions.create(
        model=base_of(server) if model == "base" else model,
        messages=MESSAGES,
        max_completion_tokens=12,
        temperature=0,
        logprobs=True,
    )
    (choice,) = answer.choices
    assert choice.message.content == wanted.text
    assert choice.finish_reason == wanted.finish_reason
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [token.logprob for token in choice.logprobs.content] == pytest.approx(
        [token.logprob for token in wanted.tokens][: len(choice.logprobs.content)], abs=1e-5
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == wanted.usage.prompt_tokens
    assert answer.usage.completion_tokens == len(wanted.tokens)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(wanted.tokens)
    assert answer.object == "chat.completion"
    assert answer.system_fingerprint is not None


def test_a_stream_has_the_same_text_and_usage_at_its_end(client: openai.OpenAI, server: Running) -> None:
    options: Any = {"model": "acme/sql", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    assert streamed_text(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert len(chunks) > 5, "it comes piece by piece"


def test_choices_and_seeds_are_the_runtimes(client: openai.OpenAI, server: Running) -> None:
    wanted = expected(
        server, "acme/sql@v1", max_new_tokens=8, temperature=0.9, top_p=0.9, n=3, seed=2**63 - 2
    )
    options: Any = {
        "model": "acme/sql@v1",
        "messages": MESSAGES,
        "max_tokens": 8,
        "temperature": 0.9,
        "top_p": 0.9,
        "n": 3,
        "seed": 2**63 - 2,
    }
    answer = client.chat.completions.create(**options)
    assert [choice.message.content for choice in answer.choices] == [one.text for one in wanted]
    assert len({one.text for one in wanted}) > 1
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert [streamed_text(chunks, index) for index in range(3)] == [one.text for one in wanted]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(len(one.tokens) for one in wanted)
    assert answer.usage.prompt_tokens == wanted[0].usage.prompt_tokens


def test_by_default_an_answer_is_sampled_and_as_long_as_the_context(
    client: openai.OpenAI, server: Running
) -> None:
    """At temperature 1."""
    (wanted,) = expected(server, max_new_tokens=480, temperature=1.0, seed=5, ignore_eos=True, stop=["zz"])
    answer = client.chat.completions.create(
        model=base_of(server), messages=MESSAGES, seed=5, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].message.content is not None
    assert answer.choices[0].message.content.startswith(wanted.text[:200])
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == server.serving.runtime.room()


def test_vllms_settings_are_the_runtimes(client: openai.OpenAI, server: Running) -> None:
    settings: Any = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.2, "ignore_eos": True}
    (wanted,) = expected(
        server,
        temperature=0.8,
        seed=1,
        max_new_tokens=9,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        min_new_tokens=2,
        stop_token_ids=[9],
        **settings,
    )
    answer = client.chat.completions.create(
        model=base_of(server),
        messages=MESSAGES,
        temperature=0.8,
        seed=1,
        max_tokens=9,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        extra_body={**settings, "min_tokens": 2, "stop_token_ids": [9], "priority": 3},
    )
    assert answer.choices[0].message.content == wanted.text


def test_stops_cut_the_text(client: openai.OpenAI, server: Running) -> None:
    (whole,) = expected(server, max_new_tokens=20, ignore_eos=True)
    stop = whole.text[4:7]
    (wanted,) = expected(server, max_new_tokens=20, ignore_eos=True, stop=[stop])
    for given in (stop, ["zzz", stop]):
        answer = client.chat.completions.create(
            model=base_of(server),
            messages=MESSAGES,
            max_tokens=20,
            temperature=0,
            stop=given,
            extra_body={"ignore_eos": True},
        )
        assert answer.choices[0].message.content == wanted.text
        assert answer.choices[0].finish_reason == "stop"


def test_logprobs_have_alternatives_and_bytes(speller: openai.OpenAI, spelling_server: Running) -> None:
    options: Any = {
        "model": base_of(spelling_server),
        "messages": MESSAGES,
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
    }
    (choice,) = speller.chat.completions.create(**options).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content
    for token in content:
        assert token.token == token.top_logprobs[0].token
        assert [other.logprob for other in token.top_logprobs] == sorted(
            (other.logprob for other in token.top_logprobs), reverse=True
        )
    spelled = bytes(byte for token in content for byte in token.bytes or ())
    assert spelled.decode(errors="replace") == choice.message.content
    chunks = list(speller.chat.completions.create(**options, stream=True))
    streamed = [
        token
        for chunk in chunks
        for one in chunk.choices
        if one.logprobs is not None
        for token in one.logprobs.content or ()
    ]
    assert [(token.token, token.bytes) for token in streamed] == [
        (token.token, token.bytes) for token in content
    ]


def test_content_may_be_parts_and_developers_are_systems(client: openai.OpenAI, server: Running) -> None:
    parts: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "ada "}, {"type": "text", "text": "was"}]},
        {"role": "user", "content": [{"type": "text", "text": "born in london"}], "name": "bob"},
    ]
    answers = [
        client.chat.completions.create(
            model=base_of(server), messages=messages, max_tokens=6, temperature=0, user="u", store=False
        )
        for messages in (parts, MESSAGES)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


@pytest.mark.parametrize("model", ["acme/sql", "0.5*acme/sql + 0.5*acme/tone"])
def test_async_clients_of_many_models_share_a_batch(server: Running, model: str) -> None:
    models = [base_of(server), "acme/sql@v1", "acme/sql@v2", "acme/tone", model]
    alone = [
        expected(server, None if m == models[0] else m, max_new_tokens=30, ignore_eos=True)[0] for m in models
    ]

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.address}/v1", api_key="none", max_retries=0
        ) as client:

            async def one(model: str) -> str:
                stream = await client.chat.completions.create(
                    model=model,
                    messages=MESSAGES,
                    max_tokens=30,
                    temperature=0,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*map(one, models))

    before = server.serving.runtime.generation.load.steps
    assert asyncio.run(ask()) == [one.text for one in alone]
    assert server.serving.runtime.generation.load.steps - before < 4 * 30, "one batch, not one after another"


IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


@pytest.mark.parametrize(
    ("options", "message", "param"),
    [
        ({"messages": [{"role": "user", "content": IMAGE}]}, "image_url", "messages.0.content"),
        ({"logit_bias": {"3": 100}}, "logit_bias is not supported", "logit_bias"),
        ({"store": True}, "store is not supported", "store"),
        ({"top_logprobs": 2}, "needs logprobs", "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "for streams", "stream_options"),
        ({"tool_choice": "required"}, "not among tools", "tool_choice"),
        (
            {"extra_body": {"chat_template": "x"}},
            "Unrecognized request argument supplied: chat_template",
            "chat_template",
        ),
        ({"extra_body": {"best_off": 1}}, "Unrecognized request argument supplied: best_off", "best_off"),
        ({"messages": []}, "at least 1 item", "messages"),
        ({"temperature": "hot"}, "temperature", "temperature"),
        ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
        ({"n": 1000}, "less than or equal to 128", "n"),
        ({"max_tokens": 100_000}, "asks for 100000 more", "messages"),
        (
            {"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}},
            "Give one",
            "structured_outputs",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    client: openai.OpenAI, server: Running, options: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": base_of(server), "messages": MESSAGES} | options)
    assert message in str(caught.value)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_what_endpoints_depend_on_is_found_on_the_event_loop(
    client: openai.OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread for each of them would cost more than they do, and wait where all threads are busy."""
    threads = []

    async def noted(work: Any, *arguments: Any, **options: Any) -> Any:
        threads.append(work)
        return await run_in_threadpool(work, *arguments, **options)

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", noted)
    client.chat.completions.create(model=base_of(server), messages=MESSAGES, max_tokens=1)
    assert {*threads} <= {caller_of}


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="acme/none", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


def test_the_answers_id_is_in_its_header(client: openai.OpenAI, server: Running) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=base_of(server), messages=MESSAGES, max_tokens=1
    )
    assert answer.parse().id == f"chatcmpl-{answer.headers['x-request-id']}"
